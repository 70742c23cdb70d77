export type { ClientRow, TrainingData } from './data.js';
export { FederatedClient, type FederatedClientOptions, type RegisterOptions } from './federated-client.js';
export { type Filter, type FilterRecord, isKnownFilter } from './filters.js';
export type {
  ClientUpdateResult,
  JoinRoundOptions,
  LocalRound,
  LocalTrainFn,
  LocalTrainResult,
  PersonalModel,
  RemoteTrainOptions,
  TrainDataOptions,
} from './options.js';
export type { StateDict, Weights, WeightsLike } from './weights.js';
