"""``extra-jax view``: a page that shows runs in the browser, live, without jax and without a network."""
