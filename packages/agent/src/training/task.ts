import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { Assignment } from '@octomil/proto';
import type { DataSource } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { parseTargetRule, type TargetRule } from '@octomil/shared/features';
import {
  type ControlVariateFiles,
  type OwnCode,
  type Personalization,
  type PersonalPlace,
  type PredictTask,
  parseLocalOptions,
  parsePersonalization,
  requireRowsPerStep,
  type TrainerTask,
} from '@octomil/shared/training';
import { PERSONAL_LIMIT } from '../personal/personal-models.js';

/** Where a task reads and writes. */
export interface TaskPlaces {
  /** Undefined for work that reads no data (echo). */
  readonly source: DataSource | undefined;
  /** Empty for work that needs no base. */
  readonly basePath: string;
  readonly outputPath: string;
  /** Code of the site's own that the assignment asks for, as it is allowed. */
  readonly own?: AllowedCode | undefined;
  /** Where personal parts of models are kept, and of which data set this one is. Default: none are. */
  readonly personal?: { readonly path: string; readonly dataSet: string };
  /** Where the assignment asks for SCAFFOLD. */
  readonly controlVariates?: ControlVariateFiles | undefined;
}

/** Code of the site's own with what its run needs. */
export interface AllowedCode {
  readonly code: OwnCode;
  /** The digest that the policy allows. */
  readonly sha256: string;
  readonly workPath: string;
}

/** The parsed `task_json` of an assignment. */
export type TaskJson = Readonly<Record<string, unknown>>;

/** @throws OctomilError `invalid_input` */
export function parseTaskJson(text: string): TaskJson {
  let parsed: unknown;
  try {
    parsed = text === '' ? {} : JSON.parse(text);
  } catch {
    parsed = undefined;
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new OctomilError('invalid_input', "the assignment's task_json is not a JSON object");
  }
  return parsed as TaskJson;
}

/** Echo trains on nothing, so it needs neither a data set nor a rule that names one. */
export function readsData(assignment: Pick<Assignment, 'kind'>, json: TaskJson): boolean {
  return !(assignment.kind === 'train' && json['trainer'] === 'echo');
}

/**
 * The data set that an assignment means: the one named, or without a name the one called "default", or the only one.
 *
 * @throws OctomilError `data_unreadable` naming those that exist
 */
export function chooseDataSet(dataSets: Readonly<Record<string, DataSource>>, name: string): string {
  const names = Object.keys(dataSets);
  if (names.includes(name === '' ? 'default' : name)) return name === '' ? 'default' : name;
  const [only] = names;
  if (name === '' && only !== undefined && names.length === 1) return only;
  const listed = names.map((one) => `"${one}"`).join(', ') || 'none';
  throw new OctomilError(
    'data_unreadable',
    name === ''
      ? `the assignment names no data set and this site has ${listed}; name one with data_set`
      : `this site has no data set "${name}"; it has ${listed}`,
    { details: { dataSet: name, dataSets: names } },
  );
}

/**
 * What the trainer is asked to do. The trainer checks the architecture and the feature spec themselves.
 *
 * @throws OctomilError `invalid_input` when a part is missing or a step would take too few rows, `training_not_supported` for an unknown kind or trainer
 */
export function toTrainerTask(
  assignment: Assignment,
  json: TaskJson,
  places: TaskPlaces,
): Exclude<TrainerTask, PredictTask> {
  const { source, basePath, outputPath } = places;
  const kept = personalPart(assignment, json, places);
  if (assignment.kind === 'train' && json['trainer'] === 'echo') {
    return {
      kind: 'train',
      trainer: 'echo',
      basePath,
      outputPath,
      updateFormat: updateFormat(assignment),
      ...(typeof json['sampleCount'] === 'number' ? { sampleCount: json['sampleCount'] } : {}),
    };
  }
  if (source === undefined)
    throw new OctomilError('data_unreadable', 'this work needs a data set and the site has none');
  switch (assignment.kind) {
    case 'describe':
      return {
        kind: 'describe',
        source,
        target: targetOf(json['target']),
        ...optionalPart(json, 'missingMarkers'),
        ...optionalPart(json, 'exclude'),
        ...optionalPart(json, 'hints'),
        ...optionalPart(json, 'imageShape'),
      };
    case 'evaluate':
      return {
        kind: 'evaluate',
        source,
        weightsPath: basePath,
        architecture: part(json, 'architecture'),
        featureSpec: part(json, 'featureSpec'),
        holdout: part(json, 'holdout'),
        ...kept,
      };
    case 'train': {
      const trainer = trainerOf(json);
      if (places.own === undefined && trainer !== 'tfjs') {
        throw new OctomilError(
          'training_not_supported',
          `this agent has no trainer "${trainer}"; it has tfjs, echo and those that its configuration names`,
        );
      }
      const { own, controlVariates } = places;
      if (own !== undefined && controlVariates !== undefined) {
        throw new OctomilError(
          'training_not_supported',
          `the strategy scaffold corrects every step of training, which this site's own code "${trainer}" does by itself`,
        );
      }
      const options = parseLocalOptions(json['options'] ?? json['local']);
      if (own === undefined) requireRowsPerStep(options);
      return {
        kind: 'train',
        ...(own === undefined
          ? { trainer: 'tfjs', ...kept }
          : {
              trainer: 'own',
              code: own.code,
              allowedSha256: own.sha256,
              workPath: own.workPath,
              roundNumber: assignment.roundNumber,
            }),
        source,
        basePath,
        outputPath,
        updateFormat: updateFormat(assignment),
        architecture: part(json, 'architecture'),
        featureSpec: part(json, 'featureSpec'),
        holdout: part(json, 'holdout'),
        options,
        ...(controlVariates === undefined ? {} : { controlVariates }),
      };
    }
    default:
      throw new OctomilError(
        'training_not_supported',
        `this agent does not know assignments of kind "${assignment.kind}"; update the agent`,
      );
  }
}

/**
 * What of the model stays here, and where: one folder for each federation, model, data set, method and architecture.
 *
 * @throws OctomilError `training_not_supported` for code of the site's own and for echo, which would send all
 */
function personalPart(
  assignment: Assignment,
  json: TaskJson,
  { personal, own }: TaskPlaces,
): { personalization: Personalization; personal: PersonalPlace } | undefined {
  if (json['personalization'] === undefined || json['personalization'] === null) return undefined;
  const personalization = parsePersonalization(json['personalization']);
  if (own !== undefined || trainerOf(json) !== 'tfjs') {
    const name = own?.code.name ?? trainerOf(json);
    throw new OctomilError(
      'training_not_supported',
      `personalization "${personalization.method}" needs the trainer tfjs; "${name}" trains here, and what it would send is not known to leave out what should stay`,
    );
  }
  if (personal === undefined) {
    throw new OctomilError('training_not_supported', 'this agent keeps no personal parts of models');
  }
  const { federation, modelName, sessionId, roundNumber } = assignment;
  const { dataSet } = personal;
  const key = JSON.stringify([federation, modelName, dataSet, personalization.method, json['architecture']]);
  const folder = createHash('sha256').update(key).digest('hex').slice(0, 16);
  const path = join(personal.path, folder);
  return {
    personalization,
    personal: { path, federation, model: modelName, dataSet, sessionId, roundNumber, limit: PERSONAL_LIMIT },
  };
}

/** What trains: `tfjs` where the assignment does not say. */
export function trainerOf(json: TaskJson): string {
  return typeof json['trainer'] === 'string' ? json['trainer'] : 'tfjs';
}

function updateFormat(assignment: Assignment): 'delta' | 'weights' {
  const { updateFormat: format } = assignment;
  if (format === 'delta' || format === 'weights') return format;
  throw new OctomilError('invalid_input', `update_format "${format}" is not known; use delta or weights`);
}

function targetOf(value: unknown): TargetRule {
  if (typeof value === 'string') return parseTargetRule(value);
  if (typeof value === 'object' && value !== null && 'column' in value) return value as TargetRule;
  throw new OctomilError('invalid_input', "the assignment's task_json has no target");
}

function part<T>(json: TaskJson, name: string): T {
  const value = json[name];
  if (typeof value !== 'object' || value === null) {
    throw new OctomilError('invalid_input', `the assignment's task_json has no ${name}`);
  }
  return value as T;
}

function optionalPart(json: TaskJson, name: string): object {
  return json[name] === undefined || json[name] === null ? {} : { [name]: json[name] };
}
