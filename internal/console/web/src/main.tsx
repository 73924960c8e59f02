import './styles/base.css';
import './styles/shell.css';
import './styles/parts.css';
import './styles/overview.css';
import './styles/topic.css';
import './styles/pages.css';
import { render } from 'preact';
import { App } from './app.js';
import { listenToKeys } from './keys.js';

listenToKeys();
const root = document.getElementById('app')!;
root.replaceChildren();
render(<App />, root);
