import { type DestinationStream, pino } from 'pino';

/** What our code needs of a logger. Levels by expected rate: error wakes somebody, warn is looked at, info tells the story. */
export interface Logger {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  child(fields: object): Logger;
}

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';

/** Field names whose values never reach a log, at the top and one level down. */
const SECRET_FIELDS = ['authorization', 'apiKey', 'credential', 'token', 'secret', 'password', 'key', 'ticketToken'];

/** Redis' client hangs the refused command on its error: for AUTH, these are user and password. */
const ERROR_SECRETS = ['error.command.args'];

/** One JSON object a line, on standard error unless another destination is given. */
export function createLogger(name: string, level: LogLevel, destination?: DestinationStream): Logger {
  return pino(
    {
      name,
      level,
      redact: {
        paths: [...SECRET_FIELDS.flatMap((field) => [field, `*.${field}`]), ...ERROR_SECRETS],
        censor: '[redacted]',
      },
      serializers: { error: pino.stdSerializers.err },
      base: { name, pid: process.pid },
    },
    destination ?? pino.destination({ dest: 2, sync: true }),
  );
}

export const silentLogger: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLogger,
};
