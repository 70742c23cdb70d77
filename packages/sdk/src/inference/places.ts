import { OctomilClientError } from '../client-error.js';
import { environmentVariable } from '../client-options.js';
import type { HttpClient } from '../http-client.js';
import { nodeModule } from '../node-builtins.js';
import { GatewaySource } from './gateway-source.js';
import type { ModelCache } from './model-cache.js';
import type { ModelFile } from './model-files.js';
import { ENGINES, type EngineName } from './prediction.js';
import { type LocalServer, ServeSource } from './serve-source.js';
import type { TextSource } from './text-source.js';

export interface RouteOptions {
  /** `device` and `cloud` allow nothing else. Default `auto`: on the device where it can, else in the cloud. */
  readonly route?: 'auto' | 'device' | 'cloud' | undefined;
  /** Allows this one alone: `llama.cpp`, `serve` or `gateway`. */
  readonly engine?: EngineName | undefined;
  /**
   * Asks for `name:version` wherever models have names: in the models file, at a server, at the gateway's backends. Default,
   * and for `latest`: the name alone.
   */
  readonly version?: string | undefined;
}

/** What a version of a model is called where models have names only, as Ollama's tags are. */
export function versionedName(model: string, version: string | undefined): string {
  return version === undefined || version === 'latest' ? model : `${model}:${version}`;
}

/** Somewhere to generate. */
export interface Place {
  readonly engine: EngineName;
  readonly reason: string;
  open(): Promise<{ readonly source: TextSource; release(): void }>;
}

/** Why a place is none for this model. */
export interface NoPlace {
  readonly engine: EngineName;
  readonly unfit: string;
}

type OnDevice = typeof import('./on-device.js');

/** What can generate with a model, best first: what this machine has in memory, what it can load, the cloud. */
export class Places {
  readonly #http: HttpClient;
  readonly #server: LocalServer | undefined;
  readonly #cache: ModelCache;
  readonly #modelsFile: string | undefined;

  constructor(fields: {
    readonly http: HttpClient;
    readonly server: LocalServer | undefined;
    readonly cache: ModelCache;
    readonly modelsFile: string | undefined;
  }) {
    this.#http = fields.http;
    this.#server = fields.server;
    this.#cache = fields.cache;
    this.#modelsFile = fields.modelsFile;
  }

  /** Each is looked at when it is asked for. @throws OctomilClientError `invalid_input` for an engine that there is not */
  async *of(model: string, options: RouteOptions): AsyncGenerator<Place | NoPlace, void, undefined> {
    const name = versionedName(model, options.version);
    for (const engine of allowedEngines(options)) {
      if (engine === 'serve') yield await this.#serve(name);
      else if (engine === 'llama.cpp') yield await this.#llama(name);
      else yield this.#gateway(name);
    }
  }

  /** Unloads a model that ran here. */
  async unload(model: string, { version }: RouteOptions): Promise<void> {
    const found = await this.#file(versionedName(model, version));
    if (typeof found !== 'string') await this.#cache.drop(found.file.path);
  }

  /** The file that a model would run from here, or why it would not. */
  async #file(model: string): Promise<{ room: OnDevice; file: ModelFile } | string> {
    if (typeof process === 'undefined' || process.getBuiltinModule === undefined) return 'models run only in Node';
    const { node } = process.versions;
    if (Number.parseInt(node, 10) < LEAST_NODE) return `models run in Node ${LEAST_NODE} and later, not in ${node}`;
    const modelsFile = this.#modelsFile ?? environmentVariable('OCTOMIL_MODELS_FILE') ?? defaultModelsFile();
    // Most programs have neither: they need not load what reads and runs models.
    if (modelsFile === undefined && !isModelPath(model)) return `there is no models file ${DEFAULT_MODELS_FILE}`;
    let room: OnDevice;
    try {
      room = await import('#on-device');
    } catch (cause) {
      return `what runs models could not be loaded: ${cause instanceof Error ? cause.message : String(cause)}`;
    }
    const file = await room.locateModel(model, modelsFile);
    return typeof file === 'string' ? file : ((await room.missingEngine()) ?? { room, file });
  }

  async #serve(model: string): Promise<Place | NoPlace> {
    const server = this.#server;
    if (server === undefined) return { engine: 'serve', unfit: 'no local server is to be asked' };
    const offered = await server.offers(model);
    if (offered !== true) return { engine: 'serve', unfit: offered };
    return {
      engine: 'serve',
      reason: `the server at ${server.url} has the model`,
      open: async () => ({ source: new ServeSource(server.endpoint, model), release: () => undefined }),
    };
  }

  async #llama(model: string): Promise<Place | NoPlace> {
    const found = await this.#file(model);
    if (typeof found === 'string') return { engine: 'llama.cpp', unfit: found };
    const { room, file } = found;
    return {
      engine: 'llama.cpp',
      reason: `${file.path} is on this machine`,
      open: () => this.#cache.lease(file.path, file.sizeBytes, () => room.loadOnDevice(file)),
    };
  }

  #gateway(model: string): Place | NoPlace {
    if (isModelPath(model)) return { engine: 'gateway', unfit: 'the model is a file on this machine' };
    return {
      engine: 'gateway',
      reason: `the gateway at ${this.#http.apiBase} was left`,
      open: async () => ({ source: new GatewaySource(this.#http, model), release: () => undefined }),
    };
  }
}

/** A name that means a file here, and is of no use anywhere else. */
export function isModelPath(model: string): boolean {
  return /\.gguf$/i.test(model);
}

const LEAST_NODE = 22;
const DEFAULT_MODELS_FILE = '~/.octomil/models.yaml';

function defaultModelsFile(): string | undefined {
  const path = DEFAULT_MODELS_FILE.replace('~', nodeModule('node:os', 'name a models file').homedir());
  return nodeModule('node:fs', 'name a models file').existsSync(path) ? path : undefined;
}

function allowedEngines({ route = 'auto', engine }: RouteOptions): readonly EngineName[] {
  if (engine !== undefined && !ENGINES.includes(engine)) {
    const reason = `there is no engine "${engine}" here; there are ${ENGINES.join(', ')}`;
    throw new OctomilClientError('invalid_input', reason, { details: { field: 'engine' } });
  }
  const allowed = ENGINES.filter((name) => {
    if (engine !== undefined && name !== engine) return false;
    return route === 'auto' || (name === 'gateway') === (route === 'cloud');
  });
  if (allowed.length === 0) {
    throw new OctomilClientError('invalid_input', `the engine ${engine} does not run where route "${route}" asks for`);
  }
  return allowed;
}
