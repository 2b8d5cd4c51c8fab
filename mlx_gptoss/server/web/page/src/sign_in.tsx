// A browser that this server does not know yet.
import { useState } from "preact/hooks";
import { store } from "./store";

export function SignIn({ problem }: { problem: string }) {
  const [text, setText] = useState("");
  const submit = async (event: Event) => {
    event.preventDefault();
    const key = text.trim().split("#k=").at(-1)!.split("&")[0];
    if (!key) return;
    await store.signIn(key);
    await store.enter();
  };
  return (
    <main class="sign-in">
      <h1>mlx-gptoss</h1>
      <p>
        This browser does not know this server yet. Open the link that{" "}
        <code>mlx-gptoss serve</code> printed, or start <code>mlx-gptoss serve --open</code>.
      </p>
      <form onSubmit={submit}>
        <label for="key">Or paste the link, or its key, here</label>
        <input
          id="key"
          type="password"
          autocomplete="off"
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
        />
        <button type="submit">Open the page</button>
      </form>
      {problem && <p role="alert">{problem}</p>}
    </main>
  );
}
