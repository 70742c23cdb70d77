/** For tests of this package only; not part of its public door. */
export { openTestDatabase, testDatabaseDump } from './test-database.js';
