// Decodes one model in a browser's worker.

import { answer } from './load.js';

onmessage = async ({ data }) => postMessage(...(await answer(data)));
