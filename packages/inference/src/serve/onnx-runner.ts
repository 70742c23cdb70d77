import { type ChildProcess, fork } from 'node:child_process';
import { createRequire } from 'node:module';
import { OctomilError } from '@octomil/shared/errors';
import { type ModelDocument, outputWidth, planModel } from '@octomil/shared/models';
import { entryPoint, type Logger } from '@octomil/shared/runtime';
import type { FromOnnx, ToOnnx } from './onnx-messages.js';

export interface OnnxRunner {
  /**
   * Logits, or the scaled value of a regression; undefined where ONNX Runtime cannot be used after all.
   *
   * @throws OctomilError `inference_failed`; `cancelled` once it is stopped; the signal's reason
   */
  run(
    path: string,
    document: ModelDocument,
    rows: readonly (readonly number[])[],
    signal: AbortSignal | undefined,
  ): Promise<readonly (readonly number[])[] | undefined>;
  stop(): Promise<void>;
}

/** Undefined where onnxruntime-node is not installed. */
export function openOnnxRunner(logger: Logger): OnnxRunner | undefined {
  try {
    createRequire(import.meta.url).resolve('onnxruntime-node');
  } catch {
    return undefined;
  }
  return new ChildRunner(logger);
}

class ChildRunner implements OnnxRunner {
  readonly #logger: Logger;
  readonly #waiting = new Map<number, (message: FromOnnx) => void>();
  #child: ChildProcess | undefined;
  #missing = false;
  #stopped = false;
  #lastId = 0;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  async run(
    path: string,
    document: ModelDocument,
    rows: readonly (readonly number[])[],
    signal: AbortSignal | undefined,
  ): Promise<readonly (readonly number[])[] | undefined> {
    if (this.#missing) return undefined;
    const { inputShape } = planModel(document.architecture, document.inputWidth);
    const data = Float32Array.from(rows.flat());
    const answer = await this.#ask({ path, rows: data, shape: [rows.length, ...inputShape] }, signal);
    if ('failure' in answer) {
      // Ended by us: that says nothing of the model.
      if (this.#stopped) throw new OctomilError('cancelled', 'the server stops');
      if (!answer.missing)
        throw new OctomilError('inference_failed', 'ONNX Runtime could not run the model', { cause: answer.failure });
      this.#missing = true;
      this.#logger.warn({ failure: answer.failure }, 'onnxruntime-node cannot be loaded; tfjs is used instead');
      return undefined;
    }
    return scaled(document, rows.length, answer.outputs);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    const child = this.#child;
    if (child === undefined) return;
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.kill('SIGKILL');
    await ended;
  }

  #ask(question: Omit<ToOnnx, 'id'>, signal: AbortSignal | undefined): Promise<FromOnnx> {
    this.#lastId += 1;
    const id = this.#lastId;
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiting.delete(id);
        reject(signal?.reason);
      };
      if (signal?.aborted) {
        onAbort();
        return;
      }
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#waiting.set(id, (message) => {
        signal?.removeEventListener('abort', onAbort);
        resolve(message);
      });
      this.#started().send({ ...question, id }, () => undefined);
    });
  }

  #started(): ChildProcess {
    if (this.#child !== undefined) return this.#child;
    const { path, execArgv } = entryPoint(import.meta.url, 'onnx-child');
    const child = fork(path, { execArgv, serialization: 'advanced', stdio: ['ignore', 'ignore', 'ignore', 'ipc'] });
    child.on('message', (message: FromOnnx) => {
      this.#waiting.get(message.id)?.(message);
      this.#waiting.delete(message.id);
    });
    child.on('error', (error) => this.#logger.warn({ error }, 'the process of ONNX Runtime failed'));
    child.on('close', () => {
      if (this.#child === child) this.#child = undefined;
      for (const [id, settle] of this.#waiting) settle({ id, failure: 'its process ended', missing: false });
      this.#waiting.clear();
    });
    this.#child = child;
    return child;
  }
}

/** As the model's own outputs are: the graph of a regression puts its value into the target's units. */
function scaled(
  document: ModelDocument,
  count: number,
  outputs: Readonly<Record<string, Float32Array>>,
): readonly (readonly number[])[] {
  const { output } = document.architecture;
  const { mean = 0, deviation = 1 } = document.featureSpec?.target ?? {};
  const isRegression = output.kind === 'regression';
  const values = isRegression
    ? Array.from(outputs['value'] ?? [], (value) => (value - mean) / deviation)
    : [...(outputs['logits'] ?? [])];
  const width = outputWidth(output);
  if (values.length !== count * width || values.some((value) => !Number.isFinite(value))) {
    throw new OctomilError('inference_failed', `the ONNX model gave no ${width} finite numbers for each row`);
  }
  return Array.from({ length: count }, (_, index) => values.slice(index * width, (index + 1) * width));
}
