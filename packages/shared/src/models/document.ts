import { OctomilError } from '@octomil/shared/errors';
import { encodedWidth, type FeatureSpec, parseFeatureSpec } from '@octomil/shared/features';
import { type Architecture, parseArchitecture } from './architecture.js';
import { checkJsonSize, DEFAULT_CAPS, type ModelCaps } from './caps.js';
import { isObject } from './layer-config.js';
import { planModel } from './model-plan.js';

/** The `model.json` artifact: everything but the weights, which are in `weights.safetensors`. */
export interface ModelDocument {
  readonly format: 'octomil-model';
  readonly formatVersion: 1;
  readonly architecture: Architecture;
  /** Numbers in one encoded row. */
  readonly inputWidth: number;
  /** How a table's columns become that row; absent for models that were not made from a table. */
  readonly featureSpec?: FeatureSpec;
  /** Names of the weights layer by layer, as tfjs lists them; the weights file itself is sorted by name. */
  readonly weightOrder: readonly string[];
}

/**
 * Makes the document of a model.
 *
 * @throws OctomilError as `planModel`; `invalid_input` when the feature spec encodes rows of another width
 */
export function modelDocument(
  architecture: Architecture,
  inputWidth: number,
  featureSpec?: FeatureSpec,
  caps?: ModelCaps,
): ModelDocument {
  if (featureSpec !== undefined && encodedWidth(featureSpec) !== inputWidth) {
    throw new OctomilError(
      'invalid_input',
      `the feature spec encodes rows of ${encodedWidth(featureSpec)} numbers, the model takes ${inputWidth}`,
    );
  }
  const weights = [...planModel(architecture, inputWidth, caps).weights.values()].flat();
  return {
    format: 'octomil-model',
    formatVersion: 1,
    architecture,
    inputWidth,
    ...(featureSpec === undefined ? {} : { featureSpec }),
    weightOrder: weights.map(({ name }) => name),
  };
}

/** The bytes of `model.json`. */
export function encodeModelDocument(document: ModelDocument): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(document, undefined, 2)}\n`);
}

/**
 * Reads `model.json`. What it says of its weights is inferred anew, not believed.
 *
 * @throws OctomilError `corrupt_file` when it is not such a document, `invalid_input` and `too_large` as `planModel`
 */
export function parseModelDocument(bytes: Uint8Array, caps: ModelCaps = DEFAULT_CAPS): ModelDocument {
  // The feature spec comes beside the topology.
  const maxBytes = 2 * caps.maxTopologySize;
  if (bytes.length > maxBytes) {
    throw new OctomilError('too_large', `model.json has ${bytes.length} bytes, more than the ${maxBytes} allowed`);
  }
  const json = parseJson(bytes);
  checkJsonSize(json, { ...caps, maxTopologySize: maxBytes });
  if (!isObject(json) || json['format'] !== 'octomil-model') {
    throw new OctomilError(
      'corrupt_file',
      'model.json is not an octomil-model document: its format field says otherwise',
    );
  }
  if (json['formatVersion'] !== 1) {
    throw new OctomilError(
      'corrupt_file',
      `model.json has formatVersion ${JSON.stringify(json['formatVersion'])}; this program reads 1: a newer one wrote it`,
    );
  }
  const inputWidth = json['inputWidth'];
  if (typeof inputWidth !== 'number') throw new OctomilError('corrupt_file', 'model.json has no inputWidth');
  const featureSpec = json['featureSpec'] === undefined ? undefined : parseFeatureSpec(json['featureSpec']);
  return modelDocument(parseArchitecture(json['architecture']), inputWidth, featureSpec, caps);
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new OctomilError('corrupt_file', 'model.json is not JSON in UTF-8', { cause: error });
  }
}
