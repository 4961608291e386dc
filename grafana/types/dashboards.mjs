// Writes each dashboard as a literal of its type: then the compiler checks every value, and every name that is too much.
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';

const from = process.env.DASHBOARDS ?? '../dashboards';
rmSync('generated', { recursive: true, force: true });
mkdirSync('generated');
for (const file of readdirSync(from).filter((file) => file.endsWith('.json'))) {
  const json = readFileSync(`${from}/${file}`, 'utf8');
  JSON.parse(json);
  writeFileSync(
    `generated/${file}.ts`,
    `import type { Dashboard } from '../dashboard';\nexport const dashboard: Dashboard = ${json};\n`,
  );
}
