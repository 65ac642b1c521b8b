// Runs pytest on CPython for WebAssembly:
//
//     node .ci/webassembly.mjs PYODIDE PACKAGES PROJECT ARGUMENT...
//
// PYODIDE is the folder of npm's package, PACKAGES that of the Python packages, PROJECT the checkout.
import { readFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [pyodide, packages, project, ...given] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(path.resolve(pyodide, "pyodide.mjs")));
const python = await loadPyodide();
for (const [place, root] of [["/packages", packages], ["/project", project]]) {
  python.FS.mkdirTree(place);
  python.FS.mount(python.FS.filesystems.NODEFS, { root: path.resolve(root) }, place);
}
python.globals.set("given", python.toPy(given));
process.exit(python.runPython(readFileSync(path.join(import.meta.dirname, "webassembly.py"), "utf8") + "\nrun(given)"));
