import { OctomilError } from '@octomil/shared/errors';
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

/** Asks for the formats that were not uploaded. @throws OctomilError `invalid_input` as `VersionConversions.request` */
export async function requestFormats(
  conversions: VersionConversions | undefined,
  versionId: string,
  { asked, uploaded }: { readonly asked: readonly string[]; readonly uploaded: readonly string[] },
  transaction: Kysely<Tables>,
): Promise<void> {
  const formats = asked.filter((format) => !uploaded.includes(format));
  if (formats.length === 0) return;
  if (conversions === undefined) {
    throw new OctomilError(
      'invalid_input',
      `formats asks for ${formats.join(', ')}, and this coordinator converts nothing; upload the files themselves`,
    );
  }
  await conversions.request(versionId, formats, transaction);
}
