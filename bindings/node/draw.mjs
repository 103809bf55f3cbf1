// node draw.mjs FOLDER "a <new1> cat on the beach" picture.png [--seed 0] [--steps 50] [--guidance 4] [--eta 1]

import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { PNG } from "pngjs";
import { Personalizer } from "./personalizer.mjs";

const usage = 'usage: node draw.mjs FOLDER PROMPT PICTURE.png [--seed 0] [--steps 50] [--guidance 4] [--eta 1]';

async function main() {
  const number = { type: "string" };
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: { seed: number, steps: number, guidance: number, eta: number },
  });
  if (positionals.length !== 3) throw new Error(usage);
  const options = Object.fromEntries(Object.entries(values).map(([name, text]) => [name, Number(text)]));
  for (const [name, value] of Object.entries(options)) if (Number.isNaN(value)) throw new Error(`--${name} is no number`);
  const [folder, prompt, path] = positionals;
  const personalizer = await Personalizer.open(folder);
  const { width, height, data } = await personalizer.generate(prompt, options);
  const png = new PNG({ width, height, colorType: 2, inputColorType: 2, inputHasAlpha: false });
  png.data = Buffer.from(data);
  writeFileSync(path, PNG.sync.write(png, { colorType: 2, inputColorType: 2, inputHasAlpha: false }));
  console.log(path);
}

main().catch((error) => {
  console.error(`draw: ${error.message}`);
  process.exitCode = 2;
});
