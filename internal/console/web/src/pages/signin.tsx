import { useSignal } from '@preact/signals';
import { keepToken, lookWhoIAm, me, token, wordsOf } from '../http.js';
import { Icon } from '../ui/icons.js';

/** Asks for the admin token. */
export function SignIn() {
  const error = useSignal(token.value ? 'The token of this tab is not the right one any more.' : '');
  const busy = useSignal(false);
  const shown = useSignal(false);
  const enter = async (event: SubmitEvent) => {
    event.preventDefault();
    const field = (event.currentTarget as HTMLFormElement).elements.namedItem('token') as HTMLInputElement;
    const value = field.value.trim();
    if (!value) {
      error.value = 'Enter the token: the server was started with it as --admin-token, or in a file.';
      field.focus();
      return;
    }
    busy.value = true;
    error.value = '';
    keepToken(value);
    try {
      const who = await lookWhoIAm();
      if (!who.signedIn) {
        keepToken('');
        error.value = 'That is not the token of this server.';
        field.select();
      }
    } catch (reason) {
      keepToken('');
      error.value = wordsOf(reason).message;
    }
    busy.value = false;
  };
  return (
    <main class="signin" id="main" tabIndex={-1}>
      <form onSubmit={enter}>
        <span class="empty-icon">
          <Icon name="key" size={22} />
        </span>
        <h1>Sign in to pgcast</h1>
        <p class="dim">
          This server asks for its admin token. It is kept in this tab only{me.value?.version ? ` · ${me.value.version}` : ''}.
        </p>
        <label class="field">
          <span>Admin token</span>
          <input name="token" type={shown.value ? 'text' : 'password'} autocomplete="current-password" spellcheck={false} autofocus
            aria-invalid={!!error.value} aria-describedby="token-error" />
        </label>
        <label class="check">
          <input type="checkbox" checked={shown.value} onChange={() => (shown.value = !shown.value)} />
          <span>Show it</span>
        </label>
        <p id="token-error" class="field-error" role="alert">
          {error.value}
        </p>
        <button type="submit" class="primary" disabled={busy.value}>
          {busy.value ? 'Signing in…' : 'Sign in'}
        </button>
      </form>
    </main>
  );
}
