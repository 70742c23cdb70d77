import { type ExactNumber, roundedNumber } from './expression.js';

interface Unit {
  readonly quantity: string;
  /** How the answer writes it. */
  readonly symbol: string;
  /** Multiplies a value to the base unit of the quantity; exact by definition of the unit (NIST SP 811, 2008; BIPM SI). */
  readonly factor: string;
  /** Added after the factor, for temperatures. */
  readonly offset?: string;
  readonly names: readonly string[];
}

const unit = (quantity: string, symbol: string, factor: string, ...names: string[]): Unit => ({
  quantity,
  symbol,
  factor,
  names,
});

const UNITS: readonly Unit[] = [
  unit('length', 'mm', '0.001', 'mm', 'millimeter', 'millimeters', 'millimetre', 'millimetres'),
  unit('length', 'cm', '0.01', 'cm', 'centimeter', 'centimeters', 'centimetre', 'centimetres'),
  unit('length', 'm', '1', 'm', 'meter', 'meters', 'metre', 'metres'),
  unit('length', 'km', '1000', 'km', 'kilometer', 'kilometers', 'kilometre', 'kilometres'),
  unit('length', 'in', '0.0254', 'in', 'inch', 'inches'),
  unit('length', 'ft', '0.3048', 'ft', 'foot', 'feet'),
  unit('length', 'yd', '0.9144', 'yd', 'yard', 'yards'),
  unit('length', 'mi', '1609.344', 'mi', 'mile', 'miles'),
  unit('length', 'nmi', '1852', 'nmi', 'nautical mile', 'nautical miles'),
  unit('mass', 'mg', '0.000001', 'mg', 'milligram', 'milligrams'),
  unit('mass', 'g', '0.001', 'g', 'gram', 'grams'),
  unit('mass', 'kg', '1', 'kg', 'kilogram', 'kilograms', 'kilo', 'kilos'),
  unit('mass', 't', '1000', 'tonne', 'tonnes', 'metric ton', 'metric tons'),
  unit('mass', 'oz', '0.028349523125', 'oz', 'ounce', 'ounces'),
  unit('mass', 'lb', '0.45359237', 'lb', 'lbs', 'pound', 'pounds'),
  unit('mass', 'st', '6.35029318', 'stone', 'stones'),
  unit('volume', 'ml', '0.001', 'ml', 'milliliter', 'milliliters', 'millilitre', 'millilitres'),
  unit('volume', 'l', '1', 'l', 'liter', 'liters', 'litre', 'litres'),
  unit('volume', 'US gal', '3.785411784', 'us gallon', 'us gallons'),
  unit('volume', 'imp gal', '4.54609', 'imperial gallon', 'imperial gallons', 'uk gallon', 'uk gallons'),
  unit('time', 's', '1', 's', 'sec', 'secs', 'second', 'seconds'),
  unit('time', 'min', '60', 'min', 'mins', 'minute', 'minutes'),
  unit('time', 'h', '3600', 'h', 'hr', 'hrs', 'hour', 'hours'),
  unit('time', 'd', '86400', 'day', 'days'),
  unit('time', 'weeks', '604800', 'week', 'weeks'),
  unit('data', 'B', '1', 'byte', 'bytes'),
  unit('data', 'kB', '1000', 'kb', 'kilobyte', 'kilobytes'),
  unit('data', 'MB', '1000000', 'mb', 'megabyte', 'megabytes'),
  unit('data', 'GB', '1000000000', 'gb', 'gigabyte', 'gigabytes'),
  unit('data', 'TB', '1000000000000', 'tb', 'terabyte', 'terabytes'),
  unit('data', 'KiB', '1024', 'kib', 'kibibyte', 'kibibytes'),
  unit('data', 'MiB', '1048576', 'mib', 'mebibyte', 'mebibytes'),
  unit('data', 'GiB', '1073741824', 'gib', 'gibibyte', 'gibibytes'),
  unit('speed', 'm/s', '1', 'm/s', 'meters per second', 'metres per second'),
  unit(
    'speed',
    'km/h',
    '0.27777777777777777777777777777777777777777777777777777777',
    'km/h',
    'kmh',
    'kph',
    'kilometers per hour',
    'kilometres per hour',
  ),
  unit('speed', 'mph', '0.44704', 'mph', 'miles per hour'),
  unit('area', 'm²', '1', 'm²', 'm2', 'square meter', 'square meters', 'square metre', 'square metres'),
  unit('area', 'ft²', '0.09290304', 'ft²', 'sq ft', 'square foot', 'square feet'),
  unit('area', 'ha', '10000', 'ha', 'hectare', 'hectares'),
  unit('area', 'acres', '4046.8564224', 'acre', 'acres'),
  { ...unit('temperature', 'K', '1', 'k', 'kelvin', 'kelvins'), offset: '0' },
  { ...unit('temperature', '°C', '1', 'c', '°c', 'celsius', 'degrees celsius', 'degree celsius'), offset: '273.15' },
];
/** Not a product but an affine map whose factor, 5/9, has no finite decimal. */
const FAHRENHEIT = ['f', '°f', 'fahrenheit', 'degrees fahrenheit', 'degree fahrenheit'];

const BY_NAME = new Map(UNITS.flatMap((known) => known.names.map((name) => [name, known] as const)));

/** A number of one unit in another; undefined when either is unknown (a bare "gallon" is), or they measure different things. */
export function convertUnits(
  value: ExactNumber,
  from: string,
  to: string,
): { value: ExactNumber; symbol: string } | undefined {
  const source = normalize(from);
  const target = normalize(to);
  const fromFahrenheit = FAHRENHEIT.includes(source);
  const toFahrenheit = FAHRENHEIT.includes(target);
  const sourceUnit = fromFahrenheit ? BY_NAME.get('celsius') : BY_NAME.get(source);
  const targetUnit = toFahrenheit ? BY_NAME.get('celsius') : BY_NAME.get(target);
  if (sourceUnit === undefined || sourceUnit.quantity !== targetUnit?.quantity) return undefined;
  const start = fromFahrenheit ? value.minus(32).times(5).div(9) : value;
  const base = start.times(sourceUnit.factor).plus(sourceUnit.offset ?? 0);
  const result = base.minus(targetUnit.offset ?? 0).div(targetUnit.factor);
  return {
    value: roundedNumber(toFahrenheit ? result.times(9).div(5).plus(32) : result),
    symbol: toFahrenheit ? '°F' : targetUnit.symbol,
  };
}

function normalize(name: string): string {
  return name.trim().toLowerCase().replaceAll(/\s+/g, ' ');
}
