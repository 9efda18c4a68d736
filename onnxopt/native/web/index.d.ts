import type { InferenceSession } from 'onnxruntime-common';

/** A URL, in Node.js also the path of a file, or the file's bytes. */
export type Source = string | URL | Blob | ArrayBuffer | ArrayBufferView;

export interface Progress {
  /** Bytes that have arrived. */
  loaded: number;
  /** Bytes of the file, where the server says. */
  total?: number;
}

export interface LoadOptions {
  /** What ONNX Runtime is given: execution providers, optimization level, and so on. */
  sessionOptions?: InferenceSession.SessionOptions;
  /** Called with each piece of a download. */
  onProgress?: (progress: Progress) => void;
  /** Whether the weights are decoded in a worker, so that the page goes on; true unless said otherwise. */
  worker?: boolean;
}

/** What `load` needs of onnxruntime-web or onnxruntime-node. */
export interface Runtime {
  readonly InferenceSession: {
    create(model: Uint8Array, options?: InferenceSession.SessionOptions): Promise<InferenceSession>;
  };
}

/**
 * Creates a session of a model that onnxopt has compressed. It is an ordinary session: nothing of onnxopt runs
 * when it does.
 *
 * @throws an `Error` that says in a sentence what is wrong with the file.
 */
export function load(model: Source, ort: Runtime, options?: LoadOptions): Promise<InferenceSession>;
