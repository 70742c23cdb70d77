// Fails early, in words, where the Node that npm installs is missing and the machine's own is too old.
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < 22 || (major === 22 && minor < 19)) {
  console.error(`Octomil needs Node 22.19 or newer; this is ${process.version} (${process.execPath}).`);
  console.error(
    '`npm ci` installs one for Linux, Windows and macOS: run it without --omit=optional, then use npm scripts or npx octomil.',
  );
  process.exit(1);
}
