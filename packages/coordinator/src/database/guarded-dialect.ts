import { OctomilError } from '@octomil/shared/errors';
import {
  type AbortableOperationOptions,
  type DatabaseConnection,
  type DatabaseIntrospector,
  type Dialect,
  type DialectAdapter,
  type Driver,
  type Kysely,
  PGliteAdapter,
  type QueryCompiler,
  type TransactionSettings,
} from 'kysely';
import { insideTransactionScope, refuseInsideTransaction } from './transaction-guard.js';

/**
 * A dialect whose outer handle refuses to work inside somebody's transaction.
 *
 * The check sits where a connection is asked for. For PGlite that must come before the wait for its only connection,
 * so Kysely's own mutex is replaced by one in here.
 */
export class GuardedDialect implements Dialect {
  readonly #inner: Dialect;
  readonly #oneConnection: boolean;

  constructor(inner: Dialect, options: { oneConnection: boolean }) {
    this.#inner = inner;
    this.#oneConnection = options.oneConnection;
  }

  createAdapter(): DialectAdapter {
    return this.#oneConnection ? new SharedSessionAdapter() : this.#inner.createAdapter();
  }

  createDriver(): Driver {
    return new GuardedDriver(this.#inner.createDriver(), this.#oneConnection ? new Mutex() : undefined);
  }

  createIntrospector(database: Kysely<unknown>): DatabaseIntrospector {
    return this.#inner.createIntrospector(database);
  }

  createQueryCompiler(): QueryCompiler {
    return this.#inner.createQueryCompiler();
  }
}

/** Keeps Kysely from adding a mutex of its own before ours. */
class SharedSessionAdapter extends PGliteAdapter {
  override get supportsMultipleConnections(): boolean {
    return true;
  }
}

class Mutex {
  #tail: Promise<void> = Promise.resolve();
  #unlock: (() => void) | undefined;

  async lock(): Promise<void> {
    const before = this.#tail;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#tail = promise;
    await before;
    this.#unlock = resolve;
  }

  unlock(): void {
    const unlock = this.#unlock;
    this.#unlock = undefined;
    unlock?.();
  }
}

class GuardedDriver implements Driver {
  readonly #inner: Driver;
  readonly #mutex: Mutex | undefined;

  constructor(inner: Driver, mutex: Mutex | undefined) {
    this.#inner = inner;
    this.#mutex = mutex;
  }

  init(options?: AbortableOperationOptions): Promise<void> {
    return this.#inner.init(options);
  }

  async acquireConnection(options?: AbortableOperationOptions): Promise<DatabaseConnection> {
    refuseInsideTransaction('the outer database');
    await this.#mutex?.lock();
    try {
      return await this.#inner.acquireConnection(options);
    } catch (error) {
      this.#mutex?.unlock();
      throw error;
    }
  }

  async releaseConnection(connection: DatabaseConnection, options?: AbortableOperationOptions): Promise<void> {
    try {
      await this.#inner.releaseConnection(connection, options);
    } finally {
      this.#mutex?.unlock();
    }
  }

  async beginTransaction(connection: DatabaseConnection, settings: TransactionSettings): Promise<void> {
    if (!insideTransactionScope()) {
      throw new OctomilError(
        'internal',
        'transactions are opened with Database.transact, which guards and retries them',
      );
    }
    await this.#inner.beginTransaction(connection, settings);
  }

  commitTransaction(connection: DatabaseConnection): Promise<void> {
    return this.#inner.commitTransaction(connection);
  }

  rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    return this.#inner.rollbackTransaction(connection);
  }

  savepoint(connection: DatabaseConnection, name: string, compile: QueryCompiler['compileQuery']): Promise<void> {
    return this.#inner.savepoint?.(connection, name, compile) ?? Promise.resolve();
  }

  rollbackToSavepoint(
    connection: DatabaseConnection,
    name: string,
    compile: QueryCompiler['compileQuery'],
  ): Promise<void> {
    return this.#inner.rollbackToSavepoint?.(connection, name, compile) ?? Promise.resolve();
  }

  releaseSavepoint(
    connection: DatabaseConnection,
    name: string,
    compile: QueryCompiler['compileQuery'],
  ): Promise<void> {
    return this.#inner.releaseSavepoint?.(connection, name, compile) ?? Promise.resolve();
  }

  destroy(options?: AbortableOperationOptions): Promise<void> {
    return this.#inner.destroy(options);
  }
}
