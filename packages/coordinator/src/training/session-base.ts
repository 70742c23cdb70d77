import { OctomilError } from '@octomil/shared/errors';
import { encodedWidth, type FeatureSpec, formatTargetRule, parseTargetRule } from '@octomil/shared/features';
import type { Architecture, ModelDocument } from '@octomil/shared/models';
import { checkPersonalization } from '@octomil/shared/training';
import { fitOutput } from './feature-agreement.js';
import { FRESH_WEIGHTS, INITIAL_BASE } from './fresh-weights.js';
import type { ConfirmedSpec, TrainingBase, TrainingRegistry } from './ports.js';
import type { ResolvedConfig } from './round-facts.js';
import type { SessionConfig } from './session-config.js';

/** @throws `version_not_found` for a version that was named and does not exist */
export async function findBase(
  registry: Pick<TrainingRegistry, 'baseFor'>,
  model: { id: string; name: string },
  baseVersion: string | null,
): Promise<TrainingBase | undefined> {
  if (baseVersion === INITIAL_BASE) return undefined;
  const base = await registry.baseFor(model.id, baseVersion ?? undefined);
  if (base === undefined && baseVersion !== null) {
    throw new OctomilError(
      'version_not_found',
      `model "${model.name}" has no version "${baseVersion}" to train from; leave base_version out for the latest, or say "${INITIAL_BASE}" for fresh weights`,
      { details: { field: 'base_version', value: baseVersion } },
    );
  }
  return base;
}

/**
 * Completes a configuration by what the base version and the model's row say.
 *
 * @param confirmed the spec to train with, in place of one that the sites describe
 * @throws `invalid_input` where architecture or target are missing or contradict the base, or the architecture lacks the
 * layers that are to stay at the sites
 or the confirmed spec
 */
export function resolveConfig(
  config: SessionConfig,
  model: { name: string; architecture: Architecture | null; target: string | null },
  base: ModelDocument | undefined,
  confirmed?: ConfirmedSpec,
): ResolvedConfig {
  const open = config.admission === 'open';
  if (base !== undefined && confirmed !== undefined) requireSameEncoding(base, confirmed);
  if (open && base === undefined) {
    throw new OctomilError(
      'version_not_found',
      `model "${model.name}" has no published version that clients could start from; make one with POST /api/v1/training/bases, or upload and publish one`,
    );
  }
  const spec = base?.featureSpec ?? confirmed?.spec;
  const describes = config.trainer !== 'echo' && spec === undefined && !open;
  const architecture = base?.architecture ?? config.architecture ?? model.architecture;
  if (base !== undefined && config.architecture !== null && !sameModel(config, base.architecture)) {
    throw new OctomilError(
      'invalid_input',
      `architecture is ${JSON.stringify(config.architecture).slice(0, 200)}, but the base version is ${JSON.stringify(base.architecture).slice(0, 200)}; leave architecture out, or ${FRESH_WEIGHTS}`,
    );
  }
  const specTarget = spec === undefined ? undefined : formatTargetRule(spec.target.rule);
  if (
    specTarget !== undefined &&
    config.target !== null &&
    formatTargetRule(parseTargetRule(config.target)) !== specTarget
  ) {
    throw new OctomilError(
      'invalid_input',
      `target is "${config.target}", but ${base?.featureSpec === undefined ? 'the confirmed features are for' : 'the base version learned'} "${specTarget}"; leave target out, or ${FRESH_WEIGHTS}`,
    );
  }
  const target = specTarget ?? config.target ?? model.target;
  if (architecture === null) {
    throw new OctomilError(
      'invalid_input',
      `model "${model.name}" has no architecture yet; name one, such as architecture = "mlp"`,
      { details: { field: 'architecture' } },
    );
  }
  if (describes && target === null) {
    throw new OctomilError(
      'invalid_input',
      `model "${model.name}" has no target yet; name what to learn, such as target = "diagnosis" or target = "num>0"`,
      { details: { field: 'target' } },
    );
  }
  if (config.personalization !== undefined) checkPersonalization(config.personalization, architecture);
  if (config.local.classWeights !== undefined && architecture.output.kind === 'regression') {
    throw new OctomilError(
      'invalid_input',
      `local.class_weights need classes, and model "${model.name}" learns a number; leave them out`,
      { details: { field: 'local.class_weights' } },
    );
  }
  return {
    ...config,
    architecture:
      base === undefined && confirmed !== undefined ? fitOutput(architecture, confirmed.spec) : architecture,
    target,
    inputWidth: base?.inputWidth ?? widthOf(architecture, config.inputWidth, confirmed),
    ...(confirmed === undefined ? {} : { featureProposalId: confirmed.proposalId }),
    weightOrder: base?.weightOrder ?? null,
    // The same rows are held out in every session of a model: what was trained on once is never evaluated on.
    holdoutSalt: model.name,
    describes,
    evaluates: config.trainer !== 'echo' && !config.dryRun && !open,
  };
}

/** The output follows from the target unless the caller named one. */
function sameModel(config: SessionConfig, base: Architecture): boolean {
  const comparable = (architecture: Architecture | null) =>
    JSON.stringify({ ...architecture, output: config.output === null ? null : architecture?.output });
  return comparable(config.architecture) === comparable(base);
}

/** Whether training by the spec can go on from this version. */
export function isSameEncoding({ featureSpec: known, inputWidth }: ModelDocument, spec: FeatureSpec): boolean {
  return known === undefined ? inputWidth === encodedWidth(spec) : known.hash === spec.hash;
}

/** What a version learned to read cannot change under it. */
function requireSameEncoding(base: ModelDocument, { proposalId, spec }: ConfirmedSpec): void {
  if (isSameEncoding(base, spec)) return;
  const known = base.featureSpec;
  throw new OctomilError(
    'invalid_input',
    `proposal ${proposalId} encodes rows by ${spec.hash.slice(0, 12)}, but the base version ${known === undefined ? `takes rows of ${base.inputWidth} numbers` : `learned rows encoded by ${known.hash.slice(0, 12)}`}; ${FRESH_WEIGHTS}, or leave --features out (featureSpec, feature_spec)`,
    { details: { field: 'feature_spec', value: proposalId } },
  );
}

/** A confirmed spec says it; a grid's shape is the model's. */
function widthOf(architecture: Architecture, inputWidth: number, confirmed: ConfirmedSpec | undefined): number {
  if (confirmed === undefined) return widthWithoutTable(architecture, inputWidth);
  const width = encodedWidth(confirmed.spec);
  if (architecture.name === 'cnn' && widthWithoutTable(architecture, inputWidth) !== width) {
    throw new OctomilError(
      'invalid_input',
      `the model takes ${widthWithoutTable(architecture, inputWidth)} numbers a row, but the confirmed features give ${width}`,
      { details: { field: 'architecture' } },
    );
  }
  return width;
}

function widthWithoutTable(architecture: Architecture, inputWidth: number): number {
  return architecture.name === 'cnn'
    ? architecture.inputShape.reduce((product, size) => product * size, 1)
    : inputWidth;
}
