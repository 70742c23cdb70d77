import { expect, test } from '@jest/globals';
import { formatTargetRule, parseTargetRule } from './target-rule.js';

test.each([
  ['num>0', { column: 'num', comparison: '>', value: 0 }],
  [' num >= 1.5 ', { column: 'num', comparison: '>=', value: 1.5 }],
  ['outcome==yes', { column: 'outcome', comparison: '==', value: 'yes' }],
  ['outcome = "not known"', { column: 'outcome', comparison: '==', value: 'not known' }],
  ['code!="01"', { column: 'code', comparison: '!=', value: '01' }],
  ['days in care<-3e2', { column: 'days in care', comparison: '<', value: -300 }],
  ['diagnosis', { column: 'diagnosis' }],
])('%s', (text, rule) => {
  expect(parseTargetRule(text)).toEqual(rule);
  if (!text.includes('"')) expect(parseTargetRule(formatTargetRule(parseTargetRule(text)))).toEqual(rule);
});

test.each(['', '>0', 'num>', 'num>>0', 'num>high'])('%j is refused', (text) => {
  expect(() => parseTargetRule(text)).toThrow('invalid_input');
});
