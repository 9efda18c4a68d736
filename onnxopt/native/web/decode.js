// From a compressed model's bytes to what ONNX Runtime takes: the inner model, and its weights as the file that it
// refers to. One instance of onnxopt.wasm decodes one model; its memory goes with it.

/** The external file of the weights, as web.cc names it in the model. */
export const LOCATION = 'onnxopt';

// The C++ library would print its last words before it traps; nobody reads them.
const nothing = () => 8; // EBADF
const wasi_snapshot_preview1 = { fd_write: nothing, fd_seek: nothing, fd_close: nothing };

/**
 * Decodes a compressed model.
 * @param {Uint8Array} file
 * @param {WebAssembly.Module} decoder onnxopt.wasm, compiled
 * @returns {Promise<{model: Uint8Array, weights: Uint8Array}>}
 */
export async function decode(file, decoder) {
  let wasm;
  const view = (at, size) => new Uint8Array(wasm.memory.buffer, at >>> 0, size >>> 0);
  const fail = (at, size) => {
    throw new Error(new TextDecoder().decode(view(at, size)));
  };
  wasm = (await WebAssembly.instantiate(decoder, { env: { fail }, wasi_snapshot_preview1 })).exports;
  try {
    wasm._initialize();
    const at = wasm.allocate(file.length);
    view(at, file.length).set(file);
    wasm.open(at, file.length);
    const model = view(wasm.model(), wasm.model_size()).slice();
    const weights = room(wasm.weights_size());
    for (let end = 0; end < weights.length; ) {
      const batch = view(wasm.decode_next(), wasm.batch_size());
      weights.set(batch, end);
      end += batch.length;
    }
    return { model, weights };
  } catch (error) {
    if (error instanceof WebAssembly.RuntimeError) {
      throw new Error(`not a compressed ONNX model: it is damaged, and reading it ended in "${error.message}"`);
    }
    throw error;
  }
}

function room(size) {
  try {
    return new Uint8Array(size);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new Error(`the weights need ${Math.ceil(size / 2 ** 20)} MiB of memory, which are not to be had`);
  }
}
