// Builds dist/: two ES modules without dependencies, and the type declarations. `npm ci && npm run build`.
// Before that the types are compared with the server's schemas: check/conforms.ts.
// Each output begins with the SHA-256 of what it was made from, so that a test can tell whether dist is up to date
// without a build tool: see tests/client/test_typescript_build.py.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { build } from "esbuild";

const MSGPACK_LICENSE = readFileSync("node_modules/@msgpack/msgpack/LICENSE", "utf8").trim(); // asks to be passed on

function sourcesHash() {
  const hash = createHash("sha256");
  const folders = ["src", "check"].flatMap((folder) => readdirSync(folder).map((name) => `${folder}/${name}`));
  const files = ["package.json", "tsconfig.json", "build.mjs", ...folders];
  for (const file of files.sort()) hash.update(`${file}\n`).update(readFileSync(file));
  return hash.digest("hex");
}

const banner = (notice) => ({
  js: `// talkmeter client, Apache-2.0. Built from src/ by build.mjs; sources sha256:${sourcesHash()}${notice}`,
});
const shared = { bundle: true, format: "esm", target: "es2022", charset: "utf8", logLevel: "warning" };

const tsc = (...options) =>
  execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", ...options], { stdio: "inherit" });

tsc("-p", "check"); // the types beside the server's schemas
rmSync("dist", { recursive: true, force: true });
await build({ ...shared, entryPoints: ["src/index.ts"], outfile: "dist/talkmeter.js", banner: banner("") });
await build({
  ...shared,
  entryPoints: ["src/msgpack.ts"],
  outfile: "dist/talkmeter-msgpack.js",
  minify: true,
  banner: banner(`\n/* Contains @msgpack/msgpack.\n\n${MSGPACK_LICENSE}\n*/`),
});
tsc();
