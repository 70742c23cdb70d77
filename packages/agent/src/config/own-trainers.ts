import { resolve } from 'node:path';
import { DEFAULT_OWN_CODE_LIMITS, type OwnCode, TRAINER_NAME_PATTERN } from '@octomil/shared/training';
import type { PolicyResources } from '../policy/policy.js';
import type { OwnTrainerFile } from './schema.js';

interface TrainerProblem {
  readonly path: string;
  readonly message: string;
}

/** Pure. What the schema cannot say of `trainers`. */
export function trainerProblems(trainers: Readonly<Record<string, OwnTrainerFile>>): TrainerProblem[] {
  return Object.entries(trainers).flatMap(([name, { command, module, data }]) => {
    const path = `trainers.${name}`;
    if (name === 'echo' || !new RegExp(TRAINER_NAME_PATTERN).test(name)) {
      return [{ path, message: 'a trainer is called by a-z, 0-9 and "-", beginning with a letter, and not "echo"' }];
    }
    if ((command === undefined) === (module === undefined)) {
      return [{ path, message: 'name either a command or a module' }];
    }
    if (module === undefined || data === undefined || data === 'safetensors') return [];
    return [{ path: `${path}.data`, message: 'a module is handed the encoded rows; leave data out' }];
  });
}

/** The policy's resources bound what a trainer asks for. `at` resolves against the configuration's folder. */
export function ownTrainers(
  trainers: Readonly<Record<string, OwnTrainerFile>>,
  resources: PolicyResources,
  at: (path: string) => string,
): Record<string, OwnCode> {
  return Object.fromEntries(
    Object.entries(trainers).map(([name, trainer]) => {
      const { command, module, folder } = trainer;
      const memoryMb = trainer.memory_limit_mb ?? DEFAULT_OWN_CODE_LIMITS.memoryMb;
      const code: OwnCode = {
        name,
        ...(command === undefined ? {} : { command }),
        ...(module === undefined ? {} : { module }),
        root: resolve(at(folder ?? '.')),
        wholeFolder: folder !== undefined,
        data: module === undefined ? (trainer.data ?? 'parquet') : 'safetensors',
        limits: {
          timeoutMs:
            trainer.timeout_seconds === undefined ? DEFAULT_OWN_CODE_LIMITS.timeoutMs : trainer.timeout_seconds * 1_000,
          memoryMb: Math.min(memoryMb, resources.memoryMb ?? memoryMb),
          maxOutputMb: trainer.max_output_mb ?? DEFAULT_OWN_CODE_LIMITS.maxOutputMb,
          ...(resources.cpuPercent === undefined ? {} : { cpuPercent: resources.cpuPercent }),
        },
        environment: trainer.env ?? [],
      };
      return [name, code];
    }),
  );
}
