import type { Kysely } from 'kysely';
import type { Tables } from '../database/tables.js';

/** The sliver of the conversion room that uploads need. */
export interface VersionConversions {
  /**
   * Makes the version `converting` until these formats exist.
   *
   * @throws `invalid_input` for a format that nothing here can make of this version's files
   */
  request(versionId: string, formats: readonly string[], transaction: Kysely<Tables>): Promise<unknown>;
}
