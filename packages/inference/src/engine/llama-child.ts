/** The process of one model: requests come in over IPC, text goes back as it is generated. */
import { writeFile } from 'node:fs/promises';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { Credit } from './credit.js';
import { charactersOf, type FromEngine, type SaidOnWire, type ToEngine, WINDOW_CHARACTERS } from './engine-messages.js';
import { LoadedModel } from './llama-model.js';

interface Running {
  readonly controller: AbortController;
  readonly credit: Credit;
}

const running = new Map<number, Running>();
let model: LoadedModel | undefined;
let chunks: [number, SaidOnWire][] = [];

function send(message: FromEngine): void {
  // Where the channel is gone, `disconnect` ends this process.
  if (process.connected) process.send?.(message);
}

/** One message for what all sequences of a batch said. */
function sayLater(id: number, said: SaidOnWire): void {
  if (chunks.length === 0) setImmediate(flush);
  chunks.push([id, said]);
}

function flush(): void {
  if (chunks.length === 0) return;
  send({ type: 'text', chunks });
  chunks = [];
}

async function load(options: Extract<ToEngine, { type: 'load' }>['options']): Promise<void> {
  try {
    // While it loads, too: that is when it grows.
    setInterval(() => send({ type: 'alive', rssBytes: process.memoryUsage.rss() }), options.aliveEveryMs).unref();
    model = await LoadedModel.load(options);
    send({ type: 'loaded', contextTokens: model.contextTokens, rssBytes: process.memoryUsage.rss() });
  } catch (error) {
    send({ type: 'load_failed', error: toOctomilError(error, 'model_load_failed').toBody() });
  }
}

async function work(
  id: number,
  task: (loaded: LoadedModel, signal: AbortSignal, credit: Credit) => Promise<FromEngine>,
): Promise<void> {
  const controller = new AbortController();
  const credit = new Credit(WINDOW_CHARACTERS);
  running.set(id, { controller, credit });
  try {
    if (model === undefined) throw new OctomilError('model_load_failed', 'no model is loaded');
    const answer = await task(model, controller.signal, credit);
    flush();
    send(answer);
  } catch (error) {
    const known = toOctomilError(error, 'inference_failed');
    // The cause stays here; the parent keeps the end of this log.
    if (known.code === 'inference_failed')
      console.error(known.cause instanceof Error ? known.cause.stack : known.reason);
    flush();
    send({ type: 'error', id, error: known.toBody() });
  } finally {
    running.delete(id);
  }
}

process.on('message', (message: ToEngine) => {
  switch (message.type) {
    case 'load':
      void load(message.options);
      return;
    case 'generate': {
      const { id, request } = message;
      void work(id, async (loaded, signal, credit) => {
        const completion = await loaded.generate(request, signal, (said) => {
          sayLater(id, said);
          return credit.spend(charactersOf(said));
        });
        return { type: 'done', id, completion };
      });
      return;
    }
    case 'embed': {
      const { id, inputs } = message;
      void work(id, async (loaded, signal) => ({ type: 'embedded', id, ...(await loaded.embed(inputs, signal)) }));
      return;
    }
    case 'cancel':
      running.get(message.id)?.controller.abort(new OctomilError('cancelled', 'the request was cancelled'));
      running.get(message.id)?.credit.release();
      return;
    case 'credit':
      running.get(message.id)?.credit.grant(message.characters);
  }
});
// Where memory runs out, the system ends this process rather than the server.
if (process.platform === 'linux') void writeFile('/proc/self/oom_score_adj', '500').catch(() => undefined);
// An engine never outlives its server.
process.on('disconnect', () => process.exit(0));
// The server decides when it ends; a Ctrl-C in its terminal reaches this process too.
process.on('SIGINT', () => undefined);
