import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { silentLogger } from '@octomil/shared/runtime';
import { type Coordinator, startCoordinator } from '../../start-coordinator.js';
import { createPostgres, HAS_POSTGRES } from '../../testing/databases.js';
import { testDatabaseDump } from '../../testing/index.js';

export type Json = Record<string, unknown>;

export interface Answer {
  readonly status: number;
  readonly body: Json;
  readonly headers: Headers;
}

type Files = Record<string, { bytes: Uint8Array; name: string }>;

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

export async function answerOf(response: Response): Promise<Answer> {
  return { status: response.status, body: (await response.json()) as Json, headers: response.headers };
}

/** A coordinator, and requests to its Models API as clients write them, for one model after the other. */
export class RegistryClient {
  readonly coordinator: Coordinator;
  key: string;
  modelId = '';

  readonly #dropDatabase: () => Promise<void>;

  private constructor(coordinator: Coordinator, dropDatabase: () => Promise<void>) {
    this.coordinator = coordinator;
    this.#dropDatabase = dropDatabase;
    this.key = coordinator.bootstrapApiKey ?? '';
  }

  /** On PostgreSQL where there is one for tests, otherwise on the embedded database. */
  static async start(): Promise<RegistryClient> {
    const postgres = HAS_POSTGRES ? await createPostgres() : undefined;
    const coordinator = await startCoordinator({
      database: 'memory',
      logger: silentLogger,
      ...(postgres === undefined
        ? { databaseDump: await testDatabaseDump() }
        : { environment: { DATABASE_URL: postgres.url } }),
    });
    return new RegistryClient(coordinator, async () => postgres?.drop());
  }

  async stop(): Promise<void> {
    await this.coordinator.stop();
    await this.#dropDatabase();
  }

  /** Another key of another organization: everything else stays. */
  async asOutsider<T>(work: (organizationId: string) => Promise<T>): Promise<T> {
    const { database, keys } = this.coordinator.context;
    const id = randomUUID();
    await database.kysely.insertInto('organizations').values({ id, name: id }).execute();
    const own = this.key;
    this.key = (await keys.create(id, 'outsider', ['admin'])).key;
    try {
      return await work(id);
    } finally {
      this.key = own;
    }
  }

  async newModel(): Promise<void> {
    this.modelId = String((await this.json('POST', '/models', { name: randomUUID() })).body['id']);
  }

  get base(): string {
    return `/models/${this.modelId}/versions`;
  }

  url(path: string): string {
    return `${this.coordinator.restUrl}/api/v1${path}`;
  }

  get authorization(): Record<string, string> {
    return { authorization: `Bearer ${this.key}` };
  }

  async json(method: string, path: string, body?: unknown): Promise<Answer> {
    const headers = { ...this.authorization, ...(body === undefined ? {} : { 'content-type': 'application/json' }) };
    const init = { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) };
    return answerOf(await fetch(this.url(path), init));
  }

  async form(path: string, fields: Record<string, string>): Promise<Answer> {
    const body = new URLSearchParams(fields);
    return answerOf(await fetch(this.url(path), { method: 'POST', headers: this.authorization, body }));
  }

  /** Files first: published clients do so too. */
  async multipart(path: string, fields: Record<string, string>, files: Files): Promise<Answer> {
    const body = new FormData();
    for (const [field, { bytes, name }] of Object.entries(files)) {
      body.set(field, new Blob([new Uint8Array(bytes)]), name);
    }
    for (const [field, value] of Object.entries(fields)) body.set(field, value);
    return answerOf(await fetch(this.url(path), { method: 'POST', headers: this.authorization, body }));
  }

  /** One file as a version of the model at hand. */
  upload(fields: Record<string, string>, bytes: Uint8Array = randomBytes(1000), name = 'model.pt'): Promise<Answer> {
    return this.multipart(`${this.base}/upload`, fields, { file: { bytes, name } });
  }

  download(path: string, headers: Record<string, string> = {}, method = 'GET'): Promise<Response> {
    return fetch(this.url(path), { method, headers: { ...this.authorization, ...headers }, redirect: 'error' });
  }

  async storedKeys(prefix: string): Promise<string[]> {
    const found: string[] = [];
    for await (const { key } of this.coordinator.context.objects.list(prefix)) found.push(key);
    return found;
  }
}

export async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 5));
}
