/** What messages call a picture. Names of pictures are often those of patients, so that this form is known to all who tell others. */
export function namedPicture(name: string): string {
  return `picture ${JSON.stringify(name)}`;
}

/** A message as it may leave the site: pictures without their names. */
export function withoutPictureNames(message: string): string {
  return message.replaceAll(/picture "(?:[^"\\]|\\.)*"/g, "picture (the site's log names it)");
}
