/**
 * Logistic regression by mini-batches, as a site's own Node module. The agent runs it in a process of its own.
 *
 * @type {import('@octomil/shared/training').OwnModuleTrain}
 */
export async function train({ weights, data, config, signal, report }) {
  if (config.architecture.name !== 'logistic' || config.target.output.kind !== 'binary') {
    throw new Error('this example trains the architecture logistic on two classes');
  }
  const { x, y, rows, width } = data;
  const { epochs, batch_size: batchSize, learning_rate: rate } = config.local;
  const trained = weights.map((tensor) => ({ ...tensor, data: Float32Array.from(tensor.data) }));
  const kernel = trained.find(({ shape }) => shape.length === 2).data;
  const bias = trained.find(({ shape }) => shape.length === 1).data;
  const totalSteps = epochs * Math.ceil(rows / batchSize);
  let step = 0;
  let loss = 0;
  for (let epoch = 1; epoch <= epochs && !signal.aborted; epoch++) {
    loss = 0;
    for (let start = 0; start < rows; start += batchSize) {
      const end = Math.min(start + batchSize, rows);
      const gradient = new Float64Array(width);
      let gradientOfBias = 0;
      for (let row = start; row < end; row++) {
        let logit = bias[0];
        for (let index = 0; index < width; index++) logit += x[row * width + index] * kernel[index];
        const probability = 1 / (1 + Math.exp(-logit));
        loss -= Math.log(Math.max(y[row] === 1 ? probability : 1 - probability, 1e-12));
        const error = (probability - y[row]) / (end - start);
        gradientOfBias += error;
        for (let index = 0; index < width; index++) gradient[index] += error * x[row * width + index];
      }
      for (let index = 0; index < width; index++) kernel[index] -= rate * gradient[index];
      bias[0] -= rate * gradientOfBias;
      step += 1;
      report({ step, totalSteps });
    }
  }
  return { weights: trained, sampleCount: rows, metrics: { trainLoss: loss / rows } };
}
