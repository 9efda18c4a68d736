// load(), apart from what browsers and Node.js do differently: `host` does that (browser.js, node.js).

import { decode, LOCATION } from './decode.js';

/** See index.d.ts. */
export async function load(host, source, ort, { sessionOptions = {}, onProgress, worker = true } = {}) {
  if (typeof ort?.InferenceSession?.create !== 'function') {
    throw new TypeError('load(model, ort): ort has no InferenceSession, expected onnxruntime-web or onnxruntime-node');
  }
  const file = await bytesOf(host, source, onProgress);
  const decoder = await host.decoder();
  const { model, weights } = worker ? await decodeInWorker(host, file, decoder) : await decode(file, decoder);
  const externalData = [...(sessionOptions.externalData ?? [])];
  if (weights.length > 0) externalData.push({ path: LOCATION, data: weights });
  return ort.InferenceSession.create(model, { ...sessionOptions, externalData });
}

async function bytesOf(host, source, onProgress) {
  if (typeof source === 'string' || source instanceof URL) return host.read(source, onProgress);
  if (source instanceof Blob) return new Uint8Array(await source.arrayBuffer());
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (ArrayBuffer.isView(source)) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  throw new TypeError(`load(model, ort): the model is ${typeof source}, expected a URL, a Blob or bytes`);
}

/**
 * Downloads a file, and calls onProgress({loaded, total}) with each piece of it.
 * @returns {Promise<Uint8Array>}
 */
export async function download(url, onProgress) {
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new Error(`${url}: cannot be fetched: ${error.cause?.message ?? error.message}`);
  }
  if (!response.ok) throw new Error(`${url}: the server answered ${response.status} ${response.statusText}`);
  // Where the server packs the file once more, the length is that of the packed one.
  const packed = response.headers.has('content-encoding');
  const total = packed ? undefined : Number(response.headers.get('content-length')) || undefined;
  const pieces = [];
  let loaded = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    loaded += value.length;
    onProgress?.({ loaded, total });
  }
  const file = new Uint8Array(loaded);
  let end = 0;
  for (const piece of pieces) {
    file.set(piece, end);
    end += piece.length;
  }
  return file;
}

async function decodeInWorker(host, file, decoder) {
  const copy = file.slice(); // the caller keeps what he gave
  const worker = host.worker();
  try {
    return await new Promise((resolve, reject) => {
      const stopped = (why) => reject(new Error(`the decoder's worker stopped: ${why}. Pass { worker: false } to decode without one`));
      worker.listen(({ error, ...decoded }) => (error ? reject(new Error(error)) : resolve(decoded)), stopped);
      worker.post({ file: copy, decoder }, [copy.buffer]);
    });
  } finally {
    worker.end();
  }
}

/** What a worker answers to { file, decoder }: the message and what of it is transferred. */
export async function answer({ file, decoder }) {
  try {
    const { model, weights } = await decode(file, decoder);
    return [{ model, weights }, [model.buffer, weights.buffer]];
  } catch (error) {
    return [{ error: error.message }, []];
  }
}
