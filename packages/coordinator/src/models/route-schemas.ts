import { Type } from 'typebox';

export const MODEL_TAG = 'models';
export const VERSION_TAG = 'versions';

/** `id`: id or name. */
export const ModelParams = Type.Object({ id: Type.String() });
/** `version`: number, semantic version, or `latest`. */
export const VersionParams = Type.Object({ id: Type.String(), version: Type.String() });
export const Offset = Type.Optional(Type.Integer({ minimum: 0, maximum: 2 ** 31 - 1 }));
/** `org_id` comes from published clients; a key knows its organization, so it is not looked at. */
export const OrgId = Type.Optional(Type.String({ maxLength: 200 }));
export const Description = Type.Optional(Type.String({ maxLength: 1000 }));
export const Format = Type.Optional(Type.String({ maxLength: 60 }));
/** A count in a form, where everything is text, or in JSON. */
export const Count = Type.Union([
  Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }),
  Type.String({ pattern: '^[0-9]{1,15}$' }),
]);
export const Sha256 = Type.String({ pattern: '^(sha256:)?[0-9a-fA-F]{64}$' });

/** Hexadecimal, as it is kept. */
export function plainSha256(text: string): string {
  return text.replace(/^sha256:/, '').toLowerCase();
}
