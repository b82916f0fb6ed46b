// The certified provider, set up for one service: node provider.mjs PORT SERVICE
import { generateKeyPair, exportJWK } from 'jose';
import Provider from 'oidc-provider';

const [port, service] = process.argv.slice(2);
const { privateKey } = await generateKeyPair('RS256', { extractable: true });
const key = { ...(await exportJWK(privateKey)), alg: 'RS256', use: 'sig', kid: 'the-only-key' };

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: 'hitledger',
      client_secret: 'a secret that the service has from a file',
      redirect_uris: [`${service}/auth/callback`],
      post_logout_redirect_uris: [`${service}/auth/signed-out`],
    },
    { client_id: 'cron', client_secret: 'tick', grant_types: ['client_credentials'], redirect_uris: [], response_types: [] },
  ],
  jwks: { keys: [key] },
  cookies: { keys: ['only for tests'] },
  pkce: { methods: ['S256'], required: () => true },
  claims: { openid: ['sub'], profile: ['preferred_username', 'roles'] },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, preferred_username: `${id} of the tests`, roles: id === 'ada' ? ['staff'] : [] }),
  }),
  features: {
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: (context) => (context.oidc.client.clientId === 'cron' ? 'urn:hitledger' : undefined),
      getResourceServerInfo: () => ({ scope: 'read', audience: 'hitledger', accessTokenFormat: 'jwt' }),
    },
  },
  extraTokenClaims: (_, token) => (token.clientId === 'cron' ? { roles: ['staff'] } : undefined),
});
provider.listen(Number(port), '127.0.0.1', () => console.log('listening'));
