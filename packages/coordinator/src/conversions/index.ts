export {
  type ConversionService,
  type ConversionServiceOptions,
  type ConversionSettings,
  createConversionService,
} from './conversion-service.js';
export type { Conversion } from './conversion-store.js';
export { type Converter, parseConverters, readConverters } from './converters.js';
export { type ConversionRoutesOptions, conversionJson, registerConversionRoutes } from './routes.js';
