import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface TestCertificates {
  readonly caPath: string;
  readonly key: Buffer;
  readonly cert: Buffer;
}

/** False where openssl is not installed: tests that need certificates are then skipped by name. */
export function hasOpenssl(): boolean {
  try {
    execFileSync('openssl', ['version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** A private authority and a server certificate by it for 127.0.0.1, or another name, valid for `days`. */
export function makeCertificates(folder: string, days = 2, name = 'IP:127.0.0.1'): TestCertificates {
  const at = (name: string): string => join(folder, name);
  const openssl = (...args: string[]): void => {
    execFileSync('openssl', args, { stdio: 'ignore' });
  };
  const elliptic = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  openssl(
    'req',
    '-x509',
    ...elliptic,
    '-keyout',
    at('ca.key'),
    '-out',
    at('ca.pem'),
    '-days',
    '2',
    '-subj',
    '/CN=test CA',
  );
  openssl('req', ...elliptic, '-keyout', at('server.key'), '-out', at('server.csr'), '-subj', '/CN=coordinator');
  writeFileSync(at('ext.cnf'), `subjectAltName=${name}\nextendedKeyUsage=serverAuth\n`);
  openssl(
    ...['x509', '-req', '-in', at('server.csr'), '-CA', at('ca.pem'), '-CAkey', at('ca.key'), '-CAcreateserial'],
    ...['-out', at('server.pem'), '-days', String(days), '-extfile', at('ext.cnf')],
  );
  return { caPath: at('ca.pem'), key: readFileSync(at('server.key')), cert: readFileSync(at('server.pem')) };
}
