// onnxopt-web in browsers.

import { download, load as loadOn } from './load.js';

const host = {
  read: download,

  async decoder() {
    return WebAssembly.compile(await download(new URL('./onnxopt.wasm', import.meta.url)));
  },

  worker() {
    const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
    return {
      listen(message, stopped) {
        worker.onmessage = ({ data }) => message(data);
        worker.onerror = (event) => stopped(event.message || 'its script cannot be loaded');
      },
      post: (message, transfer) => worker.postMessage(message, transfer),
      end: () => worker.terminate(),
    };
  },
};

/** See index.d.ts. */
export const load = (source, ort, options) => loadOn(host, source, ort, options);
