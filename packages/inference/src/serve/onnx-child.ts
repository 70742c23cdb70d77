/** The process of ONNX Runtime, an optional peer: a file that crashes it takes nothing else with it. */
import type { FromOnnx, ToOnnx } from './onnx-messages.js';

interface Session {
  run(feeds: Readonly<Record<string, object>>): Promise<Readonly<Record<string, { readonly data: Float32Array }>>>;
}
interface Library {
  readonly InferenceSession: { create(path: string, options: object): Promise<Session> };
  readonly Tensor: new (type: 'float32', data: Float32Array, shape: readonly number[]) => object;
}

/** A variable, so that neither the compiler nor a bundler looks for a package that need not be there. */
const PACKAGE: string = 'onnxruntime-node';
const MAX_SESSIONS = 4;
const sessions = new Map<string, Promise<Session>>();

async function answer({ id, path, rows, shape }: ToOnnx): Promise<FromOnnx> {
  let library: Library;
  try {
    const loaded = (await import(PACKAGE)) as Library & { readonly default?: Library };
    library = loaded.default ?? loaded;
  } catch (error) {
    return { id, failure: String(error), missing: true };
  }
  try {
    const session = await sessionOf(library, path);
    const results = await session.run({ input: new library.Tensor('float32', rows, shape) });
    const outputs = Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data]));
    return { id, outputs };
  } catch (error) {
    sessions.delete(path);
    return { id, failure: String(error), missing: false };
  }
}

function sessionOf(library: Library, path: string): Promise<Session> {
  const known = sessions.get(path);
  if (known !== undefined) return known;
  const session = library.InferenceSession.create(path, {
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
    logSeverityLevel: 3,
  });
  sessions.set(path, session);
  const [oldest] = sessions.keys();
  if (sessions.size > MAX_SESSIONS && oldest !== undefined) sessions.delete(oldest);
  return session;
}

process.on('message', (message: ToOnnx) => {
  void answer(message).then((from) => {
    if (process.connected) process.send?.(from);
  });
});
process.on('disconnect', () => process.exit(0));
process.on('SIGINT', () => undefined);
