// onnxopt-web in Node.js.

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

import { download, load as loadOn } from './load.js';

/** A URL, or a file's path: `C:\model.onnx` is one. */
async function read(source, onProgress) {
  const isUrl = source instanceof URL || /^[a-z][a-z0-9+.-]+:/i.test(source);
  if (isUrl && new URL(source).protocol !== 'file:') return download(source, onProgress);
  const file = await readFile(isUrl ? fileURLToPath(source) : source);
  onProgress?.({ loaded: file.length, total: file.length });
  return new Uint8Array(file.buffer, file.byteOffset, file.length);
}

const host = {
  read,

  async decoder() {
    return WebAssembly.compile(await readFile(new URL('./onnxopt.wasm', import.meta.url)));
  },

  worker() {
    const worker = new Worker(new URL('./node-worker.js', import.meta.url), { execArgv: [] }); // whatever this process has
    return {
      listen(message, stopped) {
        worker.on('message', message);
        worker.on('error', (error) => stopped(error.message));
        worker.on('exit', (code) => stopped(`it ended with code ${code}`));
      },
      post: (message, transfer) => worker.postMessage(message, transfer),
      end: () => worker.terminate(),
    };
  },
};

/** See index.d.ts. */
export const load = (source, ort, options) => loadOn(host, source, ort, options);
