// Runs an image classifier on a picture, from its plain file and from what onnxopt made of it.

import { load } from 'onnxopt-web';
import * as ort from 'onnxruntime-web';

const SIZE = 224;
const RUNS = 9;
const MEAN = [0.485, 0.456, 0.406]; // ImageNet's
const DEVIATION = [0.229, 0.224, 0.225];

const status = document.querySelector('#status');
const drop = document.querySelector('#drop');
const input = drop.querySelector('input');
const canvas = drop.querySelector('canvas');

const FORMS = {
  'plain.onnx': async (url, downloaded) => {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`${url}: the server answered ${answer.status}`);
    const bytes = await answer.arrayBuffer();
    downloaded(bytes.byteLength);
    return ort.InferenceSession.create(bytes);
  },
  'small.onnx': (url, downloaded) => load(url, ort, { onProgress: ({ loaded }) => downloaded(loaded) }),
};

/** Adds a cell to a row of the table. */
function show(row, text) {
  const cell = document.querySelector(`#${row}`).insertCell();
  cell.textContent = text;
  return cell;
}

async function loaded([url, create]) {
  const bytes = show('bytes', '');
  const start = performance.now();
  const session = await create(url, (count) => {
    bytes.textContent = `${count.toLocaleString('en')} bytes`;
  });
  show('load', `${(performance.now() - start).toFixed(0)} ms`);
  return session;
}

/** float32[1, 3, 224, 224]: the middle of the picture, as models trained on ImageNet expect it. */
async function pixels(file) {
  const picture = await createImageBitmap(file);
  const side = (Math.min(picture.width, picture.height) * SIZE) / 256;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.imageSmoothingQuality = 'high';
  const [left, top] = [(picture.width - side) / 2, (picture.height - side) / 2];
  context.drawImage(picture, left, top, side, side, 0, 0, SIZE, SIZE);
  canvas.hidden = false;
  const { data } = context.getImageData(0, 0, SIZE, SIZE);
  const values = new Float32Array(3 * SIZE * SIZE);
  for (let i = 0; i < values.length; ++i) {
    const channel = Math.floor(i / SIZE ** 2);
    values[i] = (data[4 * (i % SIZE ** 2) + channel] / 255 - MEAN[channel]) / DEVIATION[channel];
  }
  return new ort.Tensor('float32', values, [1, 3, SIZE, SIZE]);
}

/** The five likeliest classes of scores, each with its probability. */
function likeliest(scores, names) {
  const most = Math.max(...scores);
  const odds = Array.from(scores, (score) => Math.exp(score - most));
  const total = odds.reduce((sum, one) => sum + one, 0);
  const order = [...odds.keys()].sort((a, b) => odds[b] - odds[a]).slice(0, 5);
  return order.map((index) => `${names[index] ?? `class ${index}`} ${((100 * odds[index]) / total).toFixed(1)} %`);
}

/** Runs the sessions in turns, so that whatever else the machine does slows all of them. */
async function classify(sessions, image, names) {
  const results = sessions.map((session) => ({ session, times: [] }));
  for (let i = 0; i < RUNS; ++i) {
    for (const result of results) {
      const start = performance.now();
      result.outputs = await result.session.run({ [result.session.inputNames[0]]: image });
      result.times.push(performance.now() - start);
    }
  }
  for (const { session, times, outputs } of results) {
    show('run', `${times.sort((a, b) => a - b)[(RUNS - 1) / 2].toFixed(1)} ms`);
    const cell = show('top', '');
    for (const line of likeliest(outputs[session.outputNames[0]].data, names)) {
      cell.append(line, document.createElement('br'));
    }
  }
}

/** Class names, a line each, where the server has them. */
async function classNames() {
  const answer = await fetch('classes.txt');
  return answer.ok ? (await answer.text()).split('\n') : [];
}

async function main() {
  const names = await classNames();
  // ONNX Runtime itself is loaded with the first model, which here is none: its time counts for neither.
  await ort.InferenceSession.create(new Uint8Array(1)).catch(() => {});
  const sessions = [];
  for (const form of Object.entries(FORMS)) {
    status.textContent = `Loading ${form[0]}`;
    sessions.push(await loaded(form));
  }
  const ready = () => {
    status.textContent = `Both models are loaded. Times of runs are medians of ${RUNS}.`;
    input.disabled = false;
  };
  const run = async (file) => {
    if (!file || input.disabled) return;
    input.disabled = true;
    status.textContent = 'Running';
    document.querySelectorAll('#run td, #top td').forEach((cell) => cell.remove());
    try {
      await classify(sessions, await pixels(file), names);
      ready();
    } catch (error) {
      status.textContent = `${file.name}: ${error.message}`;
      input.disabled = false;
    }
  };
  input.onchange = () => run(input.files[0]);
  drop.ondragover = (event) => event.preventDefault();
  drop.ondragenter = () => drop.classList.add('over');
  drop.ondragleave = () => drop.classList.remove('over');
  drop.ondrop = (event) => {
    event.preventDefault();
    drop.classList.remove('over');
    run(event.dataTransfer.files[0]);
  };
  ready();
}

main().catch((error) => (status.textContent = error.message));
