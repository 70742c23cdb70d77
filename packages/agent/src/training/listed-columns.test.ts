import { expect, test } from '@jest/globals';
import { OctomilError } from '@octomil/shared/errors';
import { onBench } from '../testing/agent-under-test.js';

test.each([
  [['chol', 'num'], /^patients\.csv has no target column "num"; the site's policy lets no other columns be named$/],
  [undefined, /its columns are chol, hiv$/],
])('what failed names columns only as the rule does: %j', (columns, message) =>
  onBench(async (bench) => {
    const { coordinator, trainer } = bench;
    const rule = { name: 'r', federations: ['*'], models: ['*'], data_sets: ['*'], ...(columns && { columns }) };
    await (await bench.start({ data_sets: { patients: 'patients.csv' }, policy: { allow: [rule] } })).ready;
    trainer.failure = new OctomilError(
      'data_mismatch',
      'patients.csv has no target column "num"; its columns are chol, hiv',
    );
    const featureSpec = { columns: [{ name: 'chol' }], target: { rule: { column: 'num' } } };
    coordinator.assign({
      ref: { assignmentId: 'a', attempt: 1 },
      kind: 'evaluate',
      base: coordinator.addObject(Buffer.from('base')),
      taskJson: JSON.stringify({ architecture: {}, featureSpec, holdout: {} }),
    });
    await coordinator.until(() => coordinator.of('assignmentFailure').length === 1);
    expect(coordinator.of('assignmentFailure')[0]?.problem?.message).toMatch(message);
    const told = (await bench.audit()).filter(({ kind }) => kind === 'failure');
    expect(told).toMatchObject([{ details: { message: expect.stringMatching(message) } }]);
  }),
);
