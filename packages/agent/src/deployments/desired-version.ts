import type { DesiredModel } from '@octomil/proto';
import { OctomilError } from '@octomil/shared/errors';

/** One file of a version. */
export interface Artifact {
  /** "safetensors", "model.json", "onnx" … */
  readonly format: string;
  /** Of the file in the version's folder. */
  readonly fileName: string;
  /** Lower-case hexadecimal. */
  readonly sha256: string;
  readonly sizeBytes: number;
}

export const ACTIVATION_MODES = ['immediate', 'when_idle', 'manual'] as const;
export type ActivationMode = (typeof ACTIVATION_MODES)[number];

/** What a device should run of one model. */
export interface DesiredVersion {
  readonly modelId: string;
  readonly modelName: string;
  readonly versionId: string;
  /** For people. */
  readonly version: string;
  /** 0: no rollout decided. */
  readonly rolloutId: number;
  readonly artifacts: readonly Artifact[];
  readonly activation: ActivationMode;
}

const ID = /^[\w-]{1,128}$/;
const MAX_ARTIFACTS = 1_000;

/** Whether it may name a folder. */
export function isSafeId(id: string): boolean {
  return ID.test(id);
}

/**
 * Checks what came over the wire: ids and file names become names on this machine's disk.
 *
 * @throws OctomilError `invalid_input`
 */
export function desiredVersion(message: DesiredModel): DesiredVersion {
  const { modelId, modelName, versionId, version, activation } = message;
  if (!isSafeId(modelId) || !isSafeId(versionId)) {
    throw refuse(`model id "${modelId.slice(0, 80)}" or version id "${versionId.slice(0, 80)}" is not an id`);
  }
  const mode = ACTIVATION_MODES.find((one) => one === (activation === '' ? 'immediate' : activation));
  if (mode === undefined) {
    throw refuse(`activation "${activation.slice(0, 80)}" is not known; this agent has ${ACTIVATION_MODES.join(', ')}`);
  }
  if (message.artifacts.length < 1 || message.artifacts.length > MAX_ARTIFACTS) {
    throw refuse(`a version has 1 to ${MAX_ARTIFACTS} artifacts, not ${message.artifacts.length}`);
  }
  const names = new Set<string>();
  const artifacts = message.artifacts.map(({ format, fileName, sha256, sizeBytes }) => {
    // The names of Windows' devices apart, what every file system takes; a leading dot is the agent's own.
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
    if (!/^[^./\\<>:"|?*\u0000-\u001f][^/\\<>:"|?*\u0000-\u001f]{0,199}$/.test(fileName)) {
      throw refuse(`artifact name ${JSON.stringify(fileName.slice(0, 80))} is not a plain file name`);
    }
    if (names.has(fileName.toLowerCase())) throw refuse(`two artifacts are called "${fileName}"`);
    names.add(fileName.toLowerCase());
    if (!/^[0-9a-f]{64}$/.test(sha256)) throw refuse(`the digest of "${fileName}" is not a SHA-256 in hexadecimal`);
    return { format, fileName, sha256, sizeBytes: Number(sizeBytes) };
  });
  return { modelId, modelName, versionId, version, rolloutId: Number(message.rolloutId), artifacts, activation: mode };
}

/** Whether both ask for the same: a repetition is no change. */
export function sameDesired(a: DesiredVersion, b: DesiredVersion): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Whether the files are the same, whatever their order. */
export function sameArtifacts(a: readonly Artifact[], b: readonly Artifact[]): boolean {
  const digests = (artifacts: readonly Artifact[]): string =>
    JSON.stringify(artifacts.map(({ fileName, sha256 }) => [fileName, sha256]).sort());
  return digests(a) === digests(b);
}

function refuse(reason: string): OctomilError {
  return new OctomilError('invalid_input', `the desired state is refused: ${reason}`);
}
