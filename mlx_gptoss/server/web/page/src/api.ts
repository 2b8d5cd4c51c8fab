// Requests to the server. The cookie goes with them; the header says that it is the page.

export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

const HEADERS = { "content-type": "application/json", "x-mlx-gptoss-page": "1" };

export async function request<T>(
  method: string,
  path: string,
  body?: unknown,
): Promise<T> {
  let reply: Response;
  try {
    reply = await fetch(`/web/${path}`, {
      method,
      headers: HEADERS,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "same-origin",
    });
  } catch {
    throw new Refused(0, "the server does not answer: is `mlx-gptoss serve` running?");
  }
  if (!reply.ok) {
    let message = `the server answered ${reply.status}`;
    try {
      message = (await reply.json()).error.message;
    } catch {
      // no JSON: the status says enough
    }
    throw new Refused(reply.status, message);
  }
  return (reply.status === 204 ? undefined : await reply.json()) as T;
}

export const get = <T>(path: string) => request<T>("GET", path);
export const post = <T>(path: string, body: unknown = {}) =>
  request<T>("POST", path, body);
