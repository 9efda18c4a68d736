// Decodes one model in a thread of Node.js.

import { parentPort } from 'node:worker_threads';

import { answer } from './load.js';

parentPort.once('message', async (message) => parentPort.postMessage(...(await answer(message))));
