export { type ApiKey, ApiKeys, type CreatedKey } from './api-keys.js';
export { bootstrapOrganization, DEFAULT_ORGANIZATION } from './bootstrap.js';
export { type CreatedEnrollmentToken, createEnrollmentToken } from './enrollment-tokens.js';
export { registerOrganizations } from './organization-routes.js';
export { Organizations } from './organizations.js';
export { type OrganizationRoutesOptions, registerOrganizationRoutes } from './routes.js';
