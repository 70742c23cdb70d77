import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { CallPiece, ChatRequest, Embedded, FlowControl, Generated, InferenceBackend } from './backend.js';
import type { CircuitBreakerOptions } from './circuit-breaker.js';
import { type BackendReport, GuardedBackend } from './guarded-backend.js';
import { nearNames } from './near-names.js';
import { mayFallBack } from './upstream-failure.js';

export interface GatewayLimits {
  /** Generations and embeddings under way at once, in this process; more are answered 429. Default 500. */
  readonly maxConcurrent: number;
  /** Of these, what one caller may have, above 0 and at most 1. Default 0.8. */
  readonly maxShareRatio: number;
  readonly circuit: Omit<CircuitBreakerOptions, 'clock'>;
}

export interface GatewayOptions {
  /** In the order in which they are tried. */
  readonly backends: readonly InferenceBackend[];
  readonly clock: Clock;
  readonly logger: Logger;
  readonly limits?: Partial<GatewayLimits>;
}

export interface GatewayCall {
  readonly signal: AbortSignal;
  readonly streaming: boolean;
  /** On whose behalf, such as an organization; undefined where callers are not told apart. */
  readonly caller?: string | undefined;
  /** From one backend only: none is left once it has sent a text. */
  readonly onTexts: (texts: readonly string[], provider: string, flow: FlowControl) => void;
  /** Likewise, of the functions of the request. */
  readonly onCalls?: (pieces: readonly CallPiece[], provider: string, flow: FlowControl) => void;
}

export interface GatewayAnswer extends Generated {
  readonly provider: string;
}

export interface GatewayHealth {
  /** `degraded`: some backends answer, and others do not. */
  readonly status: 'ok' | 'degraded' | 'unavailable';
  readonly backends: readonly BackendReport[];
  readonly active: number;
  readonly maxConcurrent: number;
}

export interface ListedModel {
  readonly id: string;
  readonly provider: string;
}

/** One door to several model servers. */
export interface Gateway {
  /**
   * Generates with the first backend that can. Another one is tried only until the first text.
   *
   * @throws OctomilError `rate_limited` beyond `maxConcurrent`, or a caller's share of it, `model_not_found` with the near names,
   * `network_unavailable` naming what was tried and why it failed, and as `InferenceBackend.generate`
   */
  generate(request: ChatRequest, call: GatewayCall): Promise<GatewayAnswer>;
  /** @throws OctomilError as `generate` */
  embed(
    model: string,
    inputs: readonly string[],
    signal: AbortSignal,
    caller?: string,
  ): Promise<Embedded & { readonly provider: string }>;
  health(): Promise<GatewayHealth>;
  models(): Promise<readonly ListedModel[]>;
  /** Ends what is under way. Safe to repeat. */
  stop(): Promise<void>;
}

const DEFAULT_MAX_CONCURRENT = 500;
const DEFAULT_MAX_SHARE_RATIO = 0.8;

interface Attempt {
  readonly provider: string;
  readonly error: OctomilError;
}

export function createGateway({ backends, clock, logger, limits = {} }: GatewayOptions): Gateway {
  const { maxConcurrent = DEFAULT_MAX_CONCURRENT, maxShareRatio = DEFAULT_MAX_SHARE_RATIO, circuit = {} } = limits;
  const maxEach = Math.max(1, Math.floor(maxConcurrent * maxShareRatio));
  const guarded = backends.map((backend) => new GuardedBackend(backend, clock, circuit));
  /** Of what is under way. */
  const active = new Set<AbortController>();
  const activeOf = new Map<string, number>();
  let stopped = false;

  const release = (caller: string): void => {
    const left = (activeOf.get(caller) ?? 1) - 1;
    if (left > 0) activeOf.set(caller, left);
    else activeOf.delete(caller);
  };

  /** Tries the backends in their order while `mayGoOn` says so. */
  const tryEach = async <T>(
    model: string,
    outer: AbortSignal,
    caller: string | undefined,
    work: (backend: InferenceBackend, signal: AbortSignal, answering: () => void) => Promise<T>,
    mayGoOn: () => boolean,
  ): Promise<T> => {
    outer.throwIfAborted();
    if (stopped) throw new OctomilError('network_unavailable', 'the gateway is stopping; ask again');
    if (active.size >= maxConcurrent) {
      throw new OctomilError(
        'rate_limited',
        `${active.size} requests are under way, which is all that this process takes; try again in a second`,
        { retryAfterSeconds: 1, details: { max_concurrent: maxConcurrent } },
      );
    }
    const own = caller === undefined ? 0 : (activeOf.get(caller) ?? 0);
    if (own >= maxEach) {
      throw new OctomilError(
        'rate_limited',
        `${own} requests of yours are under way, which is all that one organization may have; try again in a second`,
        { retryAfterSeconds: 1, details: { max_concurrent: maxEach } },
      );
    }
    const controller = new AbortController();
    const { signal } = controller;
    const leave = (): void => controller.abort(outer.reason);
    outer.addEventListener('abort', leave, { once: true });
    active.add(controller);
    if (caller !== undefined) activeOf.set(caller, own + 1);
    const tried: Attempt[] = [];
    try {
      for (const one of guarded) {
        try {
          return await one.run((backend, answering) => work(backend, signal, answering), signal, caller);
        } catch (thrown) {
          const error = toOctomilError(thrown);
          if (signal.aborted || !mayGoOn() || !mayFallBack(error)) throw error;
          tried.push({ provider: one.backend.name, error });
          logger.debug(
            { provider: one.backend.name, code: error.code, reason: error.reason },
            'a backend was passed by',
          );
        }
      }
    } finally {
      active.delete(controller);
      if (caller !== undefined) release(caller);
      outer.removeEventListener('abort', leave);
    }
    throw await allFailed(model, tried, guarded);
  };

  return {
    generate: (request, call) => {
      let hasText = false;
      return tryEach(
        request.model,
        call.signal,
        call.caller,
        async ({ name, generate }, signal, answering) => {
          const generated = await generate(request, {
            signal,
            streaming: call.streaming,
            onTexts: (texts, flow) => {
              hasText = true;
              answering();
              call.onTexts(texts, name, flow);
            },
            ...(call.onCalls === undefined || request.tools === undefined
              ? {}
              : {
                  onCalls: (pieces: readonly CallPiece[], flow: FlowControl) => {
                    hasText = true;
                    answering();
                    call.onCalls?.(pieces, name, flow);
                  },
                }),
          });
          return { ...generated, provider: name };
        },
        () => !hasText,
      );
    },
    embed: (model, inputs, signal, caller) =>
      tryEach(
        model,
        signal,
        caller,
        async ({ name, embed }, inner) => ({ ...(await embed(model, inputs, inner)), provider: name }),
        () => true,
      ),
    health: async () => {
      const reports = await Promise.all(guarded.map((one) => one.report()));
      const fine = reports.filter(({ status }) => status === 'ok').length;
      const status = fine === 0 ? 'unavailable' : fine === reports.length ? 'ok' : 'degraded';
      return { status, backends: reports, active: active.size, maxConcurrent };
    },
    models: async () => {
      const lists = await Promise.all(
        guarded.map(async (one) => (await one.models()).map((id): ListedModel => ({ id, provider: one.backend.name }))),
      );
      // A name that two of them have is answered by the first.
      return [
        ...new Map(
          lists
            .flat()
            .reverse()
            .map((model) => [model.id, model]),
        ).values(),
      ].reverse();
    },
    stop: async () => {
      stopped = true;
      for (const controller of active)
        controller.abort(new OctomilError('stream_interrupted', 'the gateway is stopping'));
      await Promise.all(backends.map((backend) => backend.stop()));
    },
  };
}

/** One answer for all that was tried: what a caller can do about it comes first. */
async function allFailed(
  model: string,
  tried: readonly Attempt[],
  guarded: readonly GuardedBackend[],
): Promise<OctomilError> {
  const list = tried.map(({ provider, error }) => ({ provider, code: error.code, reason: error.reason }));
  const details = { model, tried: list };
  if (tried.length === 0) {
    return new OctomilError(
      'runtime_unavailable',
      'no backend is configured; set OLLAMA_BASE_URL or OPENAI_API_ENDPOINT',
    );
  }
  const missing = tried.some(({ error }) => error.code === 'model_not_found');
  // One that is down may have it: then it is not missing but unreachable.
  const downWithIt = guarded.some(
    ({ backend, lastModels }) =>
      lastModels.includes(model) &&
      tried.some(({ provider, error }) => provider === backend.name && error.code !== 'model_not_found'),
  );
  if (missing && !downWithIt) {
    const known = [...new Set((await Promise.all(guarded.map((one) => one.models()))).flat())];
    const near = nearNames(model, known);
    const hint = near.length > 0 ? `; did you mean ${near.join(', ')}?` : `; there are ${known.length} others`;
    const shown = model.length > 100 ? `${model.slice(0, 100)}…` : model;
    return new OctomilError('model_not_found', `no backend has a model "${shown}"${hint}`, {
      details: { ...details, near_names: near },
    });
  }
  const said = tried.map(({ provider, error }) => `${provider}: ${error.reason}`).join('; ');
  const waits = tried.map(({ error }) => error.retryAfterSeconds ?? 1);
  const retryAfterSeconds = Math.min(...waits);
  const codes = new Set(tried.map(({ error }) => error.code));
  if (codes.size === 1 && codes.has('rate_limited')) {
    return new OctomilError('rate_limited', `every backend is busy (${said})`, { details, retryAfterSeconds });
  }
  return new OctomilError('network_unavailable', `no backend could answer (${said})`, {
    details,
    retryAfterSeconds,
    cause: tried.at(-1)?.error,
  });
}
