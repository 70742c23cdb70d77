import { create } from '@bufbuild/protobuf';
import { expect, test } from '@jest/globals';
import { AssignmentSchema } from '@octomil/proto';
import { DEFAULT_OWN_CODE_LIMITS, type OwnCode } from '@octomil/shared/training';
import { toTrainerTask } from './task.js';

const assignment = create(AssignmentSchema, { kind: 'train', updateFormat: 'delta' });
const json = { architecture: {}, featureSpec: {}, holdout: {}, options: { batchSize: 9 } };
const places = { source: { path: 'rows.csv' }, basePath: 'base', outputPath: 'update' };
const code: OwnCode = {
  name: 'tfjs',
  module: './train.js',
  root: '/training',
  wholeFolder: false,
  data: 'parquet',
  limits: DEFAULT_OWN_CODE_LIMITS,
  environment: [],
};

test('steps of fewer than ten rows are refused, whatever the coordinator allowed; code of the site decides for itself', () => {
  expect(() => toTrainerTask(assignment, json, places)).toThrow(
    /\[invalid_input\] local option batchSize = 9: a step takes 10 rows at least/,
  );
  const own = { code, sha256: 'a'.repeat(64), workPath: 'work' };
  expect(toTrainerTask(assignment, json, { ...places, own })).toMatchObject({ options: { batchSize: 9 } });
  expect(toTrainerTask(assignment, { ...json, options: { batchSize: 10 } }, places)).toMatchObject({ trainer: 'tfjs' });
});
