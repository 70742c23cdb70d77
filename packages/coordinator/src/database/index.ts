export type { Database } from './database.js';
export { type DatabaseOptions, type OpenDatabase, openDatabase } from './open-database.js';
export type * from './tables.js';
export { sqlState, violatedUnique } from './transact.js';
export { insideTransaction, refuseInsideTransaction } from './transaction-guard.js';
