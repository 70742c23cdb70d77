import { type ChildProcess, fork } from 'node:child_process';
import type { Socket } from 'node:net';
import type { EntryPoint } from '@octomil/shared/runtime';
import type { FromEngine, ToEngine } from './engine-messages.js';

const TAIL_CHARACTERS = 4_000;

/** Who waits for what the process says of one generation or embedding. */
export interface EngineListener {
  receive(message: FromEngine): void;
  /** The process is gone. */
  end(how: string): void;
}

/** One engine process, from its start to its end. */
export class EngineChild {
  /** Resolves with how it ended, when it is gone and its output is read; never rejects. */
  readonly ended: Promise<string>;
  readonly #process: ChildProcess;
  readonly #listeners = new Map<number, EngineListener>();
  #endedBy: string | undefined;
  #tail = '';
  #rssBytes: number | undefined;
  #heardAtMs: number;
  #killedFor: string | undefined;

  /** @param nowMs tells when it was heard */
  constructor(entry: EntryPoint, onMessage: (message: FromEngine) => void, nowMs: () => number = Date.now) {
    this.#heardAtMs = nowMs();
    this.#process = fork(entry.path, {
      execArgv: entry.execArgv,
      serialization: 'advanced',
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      // No build from source, and no debugger that is called to a crash and takes seconds.
      env: { ...process.env, NODE_LLAMA_CPP_SKIP_DOWNLOAD: 'true', GGML_NO_BACKTRACE: '1' },
    });
    const child = this.#process;
    // Both are read: a full pipe would stop the engine.
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#tail = (this.#tail + text).slice(-TAIL_CHARACTERS);
      });
    }
    child.on('message', (message: FromEngine) => {
      this.#heardAtMs = nowMs();
      if ('rssBytes' in message) this.#rssBytes = message.rssBytes;
      if (message.type === 'text') {
        for (const chunk of message.chunks) this.#listeners.get(chunk[0])?.receive({ type: 'text', chunks: [chunk] });
      } else if ('id' in message) this.#listeners.get(message.id)?.receive(message);
      else {
        if (message.type === 'loaded') this.#keepAlive(this.#listeners.size > 0);
        onMessage(message);
      }
    });
    this.ended = new Promise((resolve) => {
      child.on('close', (code, signal) =>
        resolve(this.#killedFor ?? (signal === null ? `it ended with exit code ${code}` : `it was ended by ${signal}`)),
      );
      child.on('error', (error) => {
        this.#tail += error.message;
        // A process that never started has no `close`.
        if (child.pid === undefined) resolve('it could not be started');
      });
    });
    // Not by each of them: what waits for `ended` is kept, with all that it holds, as long as the process lives.
    void this.ended.then((how) => {
      this.#endedBy = how;
      for (const listener of this.#listeners.values()) listener.end(how);
    });
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  get rssBytes(): number | undefined {
    return this.#rssBytes;
  }

  /** When it last said anything. */
  get heardAtMs(): number {
    return this.#heardAtMs;
  }

  /** The last line that it wrote, which says what llama.cpp stumbled on; empty where there is none. */
  get lastLine(): string {
    const lines = this.#tail.trim().split('\n');
    return (lines.findLast((line) => /assert|error|fail/i.test(line)) ?? lines.at(-1) ?? '').trim().slice(0, 300);
  }

  /** Until it is forgotten. */
  listen(id: number, listener: EngineListener): void {
    this.#listeners.set(id, listener);
    if (this.#endedBy !== undefined) listener.end(this.#endedBy);
    this.#keepAlive(true);
  }

  forget(id: number): void {
    this.#listeners.delete(id);
    this.#keepAlive(this.#listeners.size > 0);
  }

  /** While it loads, works or ends, it keeps this process alive; in between, a program that has no more to do may end. */
  #keepAlive(isNeeded: boolean): void {
    const method = isNeeded ? 'ref' : 'unref';
    this.#process[method]();
    this.#process.channel?.[method]();
    // Pipes of a child are sockets; their type says less.
    for (const stream of [this.#process.stdout, this.#process.stderr]) (stream as Socket | null)?.[method]();
  }

  send(message: ToEngine): void {
    // A closed channel means that the process is ending; `ended` tells those who wait.
    if (this.#process.connected) this.#process.send(message, () => undefined);
  }

  /** It holds nothing that a clean end would save. `why` is what `ended` tells. */
  async kill(why?: string): Promise<void> {
    this.#killedFor ??= why;
    this.#keepAlive(true);
    this.#process.kill('SIGKILL');
    await this.ended;
  }
}
