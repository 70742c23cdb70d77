import { expect, test } from '@jest/globals';
import { proxyFor, proxyFromEnvironment } from './proxy.js';

const at = (host: string, port = 443) => ({ host, port });

test('the environment names the proxy and who is reached without it', () => {
  const settings = proxyFromEnvironment({
    HTTPS_PROXY: 'http://upper.example:3128',
    https_proxy: 'http://lower.example:3128',
    NO_PROXY: '.internal.example,exact.example, 10.0.0.7:8001',
  });
  expect(proxyFor(settings, at('coordinator.example'))?.host).toBe('lower.example:3128');
  expect(proxyFor(settings, at('a.internal.example'))).toBeUndefined();
  expect(proxyFor(settings, at('exact.example'))).toBeUndefined();
  expect(proxyFor(settings, at('not-exact.example'))).toBeDefined();
  expect(proxyFor(settings, at('10.0.0.7', 8001))).toBeUndefined();
  expect(proxyFor(settings, at('10.0.0.7', 8000))).toBeDefined();
  expect(proxyFor(settings, at('127.0.0.1'))).toBeUndefined();
});

test("the agent's own setting holds for loopback too, and a star turns proxies off", () => {
  expect(proxyFor(proxyFromEnvironment({}, { url: 'http://p:1' }), at('127.0.0.1'))?.host).toBe('p:1');
  expect(proxyFor(proxyFromEnvironment({ https_proxy: 'http://p:1', no_proxy: '*' }), at('x.example'))).toBeUndefined();
  expect(proxyFor(proxyFromEnvironment({}), at('x.example'))).toBeUndefined();
});
