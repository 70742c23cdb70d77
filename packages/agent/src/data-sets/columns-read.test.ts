import { expect, test } from '@jest/globals';
import type { TrainerTask } from '@octomil/shared/training';
import { columnsRead } from './columns-read.js';

const evaluate = (source: object) =>
  ({
    ...{ kind: 'evaluate', architecture: {}, weightsPath: '', source },
    holdout: { salt: '', shareRatio: 0.2, entityColumn: 'Patient' },
    featureSpec: { columns: [{ name: 'image', kind: 'image' }], target: { rule: { column: 'label' } } },
  }) as unknown as Extract<TrainerTask, { kind: 'evaluate' }>;

test('the column that pictures are in is read under the name that the files have for it', () => {
  const path = 's3://b/x.parquet';
  expect(columnsRead(evaluate({ path, images: { column: 'Photo' } }))).toEqual(
    expect.arrayContaining(['photo', 'label', 'patient']),
  );
  expect(columnsRead(evaluate({ path, images: {} }))).toEqual(expect.arrayContaining(['image', 'file_name']));
  expect(columnsRead(evaluate({ path }))).not.toContain('file_name');
});
