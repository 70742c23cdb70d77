import { expect, test } from '@jest/globals';
import { environmentWithProxy, proxyFor, proxyFromEnvironment } from './proxy.js';

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

test('sources see the setting in place of the proxies of the environment, and nothing else changed', () => {
  const environment = { PATH: '/bin', HTTPS_PROXY: 'http://e:1', all_proxy: 'http://e:2', NO_PROXY: 'a.example' };
  expect(environmentWithProxy(environment, proxyFromEnvironment(environment, { url: 'http://s:1' }))).toEqual({
    PATH: '/bin',
    https_proxy: 'http://s:1',
    http_proxy: 'http://s:1',
    no_proxy: 'a.example',
  });
  expect(environmentWithProxy(environment, proxyFromEnvironment(environment, { noProxy: ['b.example'] }))).toEqual({
    PATH: '/bin',
    HTTPS_PROXY: 'http://e:1',
    all_proxy: 'http://e:2',
    no_proxy: 'b.example',
  });
});
