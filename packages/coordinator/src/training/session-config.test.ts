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
  expect(references).toEqual({ model: 'm', federation: undefined, mayMakeFederation: true });
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
    local: { batch_size: 16, learning_rate: 0.5 },
    holdout: { share: 0.1, entity_column: 'patient' },
    group: 'north',
  });
  expect(config).toMatchObject({
    strategy: 'fedprox',
    local: { batchSize: 16, learningRate: 0.5, proximalMu: 0.3 },
    holdout: { shareRatio: 0.1, entityColumn: 'patient' },
    selector: { group: 'north' },
  });
});

test('how many rows a step of their own code takes, the sites decide', () => {
  const { config } = parseSessionConfig({ model: 'm', trainer: 'pytorch', local: { batch_size: 4 } });
  expect(config.local.batchSize).toBe(4);
});

test('personalization and rules of local training in the words of the wire', () => {
  const { config } = parseSessionConfig({
    model: 'm',
    personalization: { method: 'fedper', head_layers: ['output'] },
    local: { early_stop: { patience: 2, min_delta: 0.01 }, class_weights: { not_ill: 2 }, max_steps: 50 },
  });
  expect(config).toMatchObject({
    personalization: { method: 'fedper', headLayers: ['output'] },
    local: { earlyStop: { patience: 2, minDelta: 0.01 }, classWeights: { not_ill: 2 }, maxSteps: 50 },
  });
  expect(parseSessionConfig({ model: 'm', personalization: 'ditto' }).config.personalization).toEqual({
    method: 'ditto',
    lambda: 0.1,
  });
  expect(parseSessionConfig({ model: 'm', personalization: null }).config).not.toHaveProperty('personalization');
});

test.each([
  [{ model: 'm', rounds: 0 }, /^rounds = 0: .*integer from 1 to 10000/],
  [{ model: 'm', min_updates: 0 }, /^min_updates = 0/],
  [
    { model: 'm', min_updates: 20_001 },
    /^min_updates = 20001: a round asks at most 20000 devices; .*admission = "open"/,
  ],
  [{ model: 'm', min_devices: 50_000 }, /^min_devices = 50000: a round asks at most 20000 devices/],
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
  [
    { model: 'm', personalization: 'fedrep' },
    /personalization = "fedrep": its method must be one of fedbn, fedper, ditto/,
  ],
  [{ model: 'm', personalization: { method: 'fedper' } }, /fedper needs head_layers/],
  [
    { model: 'm', local: { early_stop: { patience: 2 } }, holdout: { share: 0 } },
    /early_stop is decided on held-out rows/,
  ],
  [
    { model: 'm', local: { early_stop: { patience: 2 } }, strategy: 'scaffold' },
    /control variates of scaffold are of the last/,
  ],
  [{ model: 'm', local: { early_stop: 3 } }, /earlyStop = 3: use { patience, minDelta }/],
  [{ model: 'm', local: { class_weights: 'even' } }, /classWeights = "even": use "balanced"/],
  [{ model: 'm', local: { max_steps: 0 } }, /maxSteps = 0/],
  [{ model: 'm', local: { batch_size: 9 } }, /batchSize = 9: a step takes 10 rows at least/],
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

test.each([
  [{ model: 'm', personalization: 'fedbn', trainer: 'pytorch' }, /needs the trainer tfjs, not "pytorch"/],
  [{ model: 'm', personalization: 'ditto', trainer: 'echo' }, /needs the trainer tfjs, not "echo"/],
  [{ model: 'm', personalization: 'ditto', admission: 'open' }, /clients of an open session do not/],
])('%j is refused: nobody there keeps a part', (body, message) => {
  const refused = { code: 'training_not_supported', reason: expect.stringMatching(message) };
  expect(() => parseSessionConfig(body)).toThrow(expect.objectContaining(refused));
});

test('any number of updates may be asked for where nobody is selected', () => {
  expect(parseSessionConfig({ model: 'm', admission: 'open', min_updates: 50_000 }).config.minUpdates).toBe(50_000);
  expect(parseSessionConfig({ model: 'm', min_updates: 20_000 }).config.minUpdates).toBe(20_000);
});
