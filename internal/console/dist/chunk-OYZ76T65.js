var s=class extends Error{name="RealtimeError";constructor(r,e,t){super(e),this.code=r,this.retryAfter=t}};export{s as a};
