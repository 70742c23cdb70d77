import { expect, test } from '@jest/globals';
import { parseSessionConfig, SESSION_DEFAULTS } from './session-config.js';

test('what the published clients send is accepted, with defaults', () => {
  const body = {
    model_id: 'm',
    group: 'default',
    strategy: 'fedavg',
    rounds: 10,
    min_updates: 1,
    privacy: null,
    epsilon: null,
    min_devices: 2,
  };
  const { config, references } = parseSessionConfig(body, 42);
  expect(references).toEqual({ model: 'm', federation: undefined });
  expect(config).toMatchObject({
    strategy: 'fedavg',
    minUpdates: 2,
    seed: 42,
    selector: {},
    trainer: 'tfjs',
    roundDeadlineSeconds: SESSION_DEFAULTS.roundDeadlineSeconds,
    local: { seed: 42, epochs: 1 },
  });
});

test('snake_case reaches the options of the strategy and of the sites', () => {
  const { config } = parseSessionConfig({
    model: 'm',
    algorithm: 'FedProx',
    strategy_options: { proximal_mu: 0.3 },
    local: { batch_size: 8, learning_rate: 0.5 },
    holdout: { share: 0.1, entity_column: 'patient' },
    group: 'north',
  });
  expect(config).toMatchObject({
    strategy: 'fedprox',
    local: { batchSize: 8, learningRate: 0.5, proximalMu: 0.3 },
    holdout: { shareRatio: 0.1, entityColumn: 'patient' },
    selector: { group: 'north' },
  });
});

test.each([
  [{ model: 'm', rounds: 0 }, /^rounds = 0: .*integer from 1 to 10000/],
  [{ model: 'm', min_updates: 0 }, /^min_updates = 0/],
  [{ model: 'm', over_selection: 11 }, /^over_selection = 11: .*number from 1 to 10/],
  [{ model: 'm', update_format: 'zip' }, /^update_format = "zip".*one of delta, weights/],
  [{ model: 'm', strategy: 'nope' }, /unknown strategy "nope".*fedavg.*fedadagrad/],
  [{ model: 'm', lerning_rate: 1 }, /unknown field lerning_rate/],
  [{ model: 'm', architecture: 'resnet' }, /architecture name "resnet"/],
  [{ model: 'm', target: 'num>' }, /compares "num" with nothing/],
  [{ rounds: 1 }, /^model_id is missing/],
  [[], /JSON object/],
  [{ model: 'm', no_progress_seconds: 4 }, /^no_progress_seconds = 4: .*number from 5 to 86400/],
  [{ model: 'm', new_version: '1.2' }, /^new_version: "1.2" is no semantic version/],
  [{ model: 'm', max_update_norm: 1, update_format: 'weights' }, /needs update_format = "delta"/],
])('%j is refused with the field, the value and the limit', (body, message) => {
  expect(() => parseSessionConfig(body)).toThrow(
    expect.objectContaining({ code: 'invalid_input', reason: expect.stringMatching(message) }),
  );
});

test.each([
  [{ privacy: 'local_dp' }, /^privacy = "local_dp"/],
  [{ epsilon: 1.5 }, /^epsilon = 1.5 asks for differential privacy/],
  [{ privacy: 'none', epsilon: 0 }, /^epsilon = 0/],
])('%j is refused instead of training without it', (body, message) => {
  expect(() => parseSessionConfig({ model: 'm', ...body })).toThrow(
    expect.objectContaining({ code: 'training_not_supported', reason: expect.stringMatching(message) }),
  );
});

test('a new version is kept in the form that the registry gives it', () => {
  expect(parseSessionConfig({ model: 'm', new_version: ' v1.2.0' }).config.newVersion).toBe('1.2.0');
});
