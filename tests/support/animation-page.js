// Runs in a browser: decodes the files it is served and posts what the browser shows of each.

/** Frames with their times and pixels, and the picture as an element on a green ground. */
async function shown({ url, type }) {
  const data = await (await fetch(url)).arrayBuffer();
  const decoder = new ImageDecoder({ data, type, premultiplyAlpha: 'none' });
  await decoder.tracks.ready;
  const { frameCount, repetitionCount } = decoder.tracks.selectedTrack;
  const frames = [];
  for (let frameIndex = 0; frameIndex < frameCount; frameIndex++) {
    const { image } = await decoder.decode({ frameIndex });
    const rgba = new Uint8Array(image.allocationSize({ format: 'RGBA' }));
    await image.copyTo(rgba, { format: 'RGBA' });
    const { codedWidth: width, codedHeight: height, duration } = image;
    frames.push({ width, height, durationMs: duration / 1000, rgba: [...rgba] });
    image.close();
  }
  return { frames, repetitions: String(repetitionCount), onGreen: await onGreen(url) };
}

async function onGreen(url) {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  const { naturalWidth: width, naturalHeight: height } = picture;
  const context = new OffscreenCanvas(width, height).getContext('2d');
  context.fillStyle = 'rgb(0, 255, 0)';
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0);
  return [...context.getImageData(0, 0, width, height).data];
}

const post = (result) => fetch('/result', { method: 'POST', body: JSON.stringify(result) });
try {
  const files = await (await fetch('/files')).json();
  const results = [];
  for (const file of files) results.push(await shown(file));
  await post({ results });
} catch (error) {
  await post({ error: String(error.stack ?? error) });
}
