try{let t=localStorage.getItem("pgcast.console.theme");(t==="light"||t==="dark")&&(document.documentElement.dataset.theme=t)}catch{}
